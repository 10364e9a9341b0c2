"""AD302: target matches nothing."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, BaseModules, Fit
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD302", Severity.WARNING, explains=("AD803", "AD804", "AD805", "AD815"))
def target_matches_nothing(config: AdapterConfig, fit: Fit, base: BaseModules) -> Iterator[Hit]:
    """Some entries of `target_modules` name no module of the base.

    ## Why it matters
    PEFT raises only when no entry matches at all; a misspelt one beside a right one is passed over without a word.

    ## Common causes
    A typing error, or one list of names used for several model families.

    ## Fix
    Correct or remove those entries.
    """
    targets = config.get("target_modules")
    if not isinstance(targets, list) or fit.converted or fit.refusal is not None or not fit.places:
        return
    names = list(base.modules)
    parameters = [name for name, _ in base.parameters()]
    lost = [
        one for one in targets
        if isinstance(one, str) and not any(name == one or name.endswith(f".{one}") for name in names)
        and not any(f".{one}." in f".{name}." for name in names + parameters)
    ]  # fmt: skip
    if lost and len(lost) < len(targets):
        yield Hit(f"{len(lost)} of {len(targets)} entries match no module: {', '.join(map(repr, lost[:5]))}",
                  where="adapter_config.json", count=len(lost), examples=some(lost))  # fmt: skip
