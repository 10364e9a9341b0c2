"""AD104: peft type unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from adapter_doctor import knowledge
from adapter_doctor.facts import AdapterConfig, Environment, Missing
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG, installed_release, is_before, shown


@rule("AD104", Severity.ERROR, explains=("AD401", "AD5"))
def peft_type_unknown(config: AdapterConfig, environment: Environment | Missing) -> Iterator[Hit]:
    """No PEFT release that could be installed knows the PEFT type.

    ## Why it matters
    PEFT looks the type up by its exact name and raises a bare `KeyError` when it has none.

    ## Common causes
    Lower case ("lora"); a method of a fork that was never released; BONE, which PEFT 0.19 removed in favour of MISS.

    ## Fix
    Write the type as PEFT does, in capitals; for a method of a fork install that fork.
    """
    named = config.peft_type
    types = knowledge.peft_types()
    newest = knowledge.releases()[-1]
    if not named:
        return
    if named in types:
        last = types[named].last
        if last is not None and is_before(last, installed_release(environment) or newest):
            yield _removed(named, last)
        return
    meant = next((name for name in types if name == named.upper().replace("-", "_").strip()), None)
    close = [meant] if meant else difflib.get_close_matches(named[:100].upper(), types, 1, cutoff=0.8)
    yield Hit(
        f"`peft_type` is {shown(named)}, which no PEFT release up to {newest} knows"
        + (f"; PEFT writes {meant!r}" if meant else f"; expected one of its {len(types)} types"),
        where=CONFIG,
        fix=f"set `peft_type` to {close[0]!r}" if close else "install the fork of PEFT that this method comes from",
    )


def _removed(named: str, last: str) -> Hit:
    fix = f"load it with `pip install 'peft=={last}'`"
    if named == "BONE":
        fix = "set `peft_type` to 'MISS' and rename `bone_block` to `miss_block` in the tensor names"
    return Hit(f"`peft_type` is {named!r}, which PEFT has had until {last} and then removed", where=CONFIG, fix=fix)
