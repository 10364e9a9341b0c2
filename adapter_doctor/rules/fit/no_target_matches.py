"""AD301: no target matches."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, BaseModules, Fit
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule(
    "AD301",
    Severity.ERROR,
    explains=("AD302", "AD303", "AD304", "AD305", "AD5", "AD803", "AD804", "AD805", "AD815"),
    repairable=True,
)
def no_target_matches(config: AdapterConfig, fit: Fit, base: BaseModules) -> Iterator[Hit]:
    """No module of the base is named by the config's targets.

    ## Why it matters
    PEFT raises "Target modules … not found in the base model".

    ## Common causes
    An adapter for another model family; a regular expression that was meant as a name (PEFT wants it to match the whole
    path); names from another version of transformers.

    ## Fix
    Use the base that the adapter was trained on; or correct `target_modules` to names that this base has.
    """
    refusal = fit.refusal
    if refusal is None or not (
        refusal.error == "NoMatchingPeftModuleError" or "not found in the base model" in refusal.message
    ):
        return
    wanted = config.get("target_modules") or config.get("target_parameters")
    shown = (
        wanted if isinstance(wanted, str) else ", ".join(map(str, wanted)) if isinstance(wanted, list) else str(wanted)
    )
    there = sorted({name.rpartition(".")[2] for name, one in base.modules.items() if one.width is not None})
    yield Hit(
        f"none of the {len(base.modules):,} modules of the base matches `target_modules` {shown[:200]!r}",
        where="adapter_config.json",
        examples=tuple(f"the base has {', '.join(there[:12])}" for _ in range(1) if there),
    )
