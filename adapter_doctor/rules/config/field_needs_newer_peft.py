"""AD106: field needs newer peft."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, Environment
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._newer_fields import newer_fields, newer_fields_hit


@rule("AD106", Severity.WARNING)
def field_needs_newer_peft(config: AdapterConfig, environment: Environment) -> Iterator[Hit]:
    """The config has a field that is newer than the installed PEFT, and that only training reads.

    ## Why it matters
    PEFT drops it with a warning. The loaded model is the same, but saving the adapter again, or training on, loses it.

    ## Common causes
    The adapter was trained with a newer PEFT than the one that is installed here.

    ## Fix
    Install the PEFT release that the message names, or a later one.
    """
    found = [one for one in newer_fields(config, environment) if one.harmless]
    if found:
        yield newer_fields_hit(found, environment, "drops it" if len(found) == 1 else "drops them")
