"""AD401: peft too old."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor import knowledge
from adapter_doctor.facts import AdapterConfig, Environment, LoadOutcome, Missing
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule

# Releases that raise TypeError for a key they do not know (peft/config.py); 0.14 began to drop it with a warning.
_STRICT = ("0.6.0", "0.13.2")


@rule("AD401", Severity.ERROR, explains=("AD105", "AD106", "AD116", "AD5"))
def peft_too_old(config: AdapterConfig, environment: Environment, outcome: LoadOutcome | Missing) -> Iterator[Hit]:
    """The installed PEFT is too old to read this adapter.

    ## Why it matters
    PEFT raises `KeyError` for a method it does not have, and PEFT 0.6 to 0.13 raise `TypeError` for a field.

    ## Common causes
    An environment that pins an old PEFT; an adapter saved by a newer one, which writes all its fields.

    ## Fix
    Install the PEFT release that the message names, or a later one.
    """
    version = environment.version("peft")
    if version is None or (isinstance(outcome, LoadOutcome) and outcome.refusal is None and not outcome.died):
        return
    order = knowledge.releases().index
    installed = knowledge.release_at(version)
    span = knowledge.peft_types().get(config.peft_type)
    if span is None:
        return
    if order(installed) < order(span.first):
        yield Hit(
            f"{config.peft_type} came with PEFT {span.first}, and {version} is installed",
            fix=f"pip install 'peft>={span.first}'",
        )
        return
    unknown = knowledge.unknown_fields(config.raw, installed)
    if unknown and order(_STRICT[0]) <= order(installed) <= order(_STRICT[1]):
        needed = knowledge.oldest_release_reading(config.raw)
        needed = needed if needed and order(needed) > order(installed) else "0.14.0"
        yield Hit(
            f"PEFT {version} raises for {len(unknown)} of the config's {len(config.raw)} fields:"
            f" {', '.join(f'`{name[:60]}`' for name in list(unknown)[:4])}; expected PEFT {needed} or later",
            count=len(unknown),
            examples=some(unknown),
            fix=f"pip install 'peft>={needed}'",
        )
