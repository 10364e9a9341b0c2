"""AD508: scaling differs."""

from __future__ import annotations

import math
from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, Fit, LoadOutcome
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.declared_ranks import scaling_of
from adapter_doctor.rules import rule


@rule("AD508", Severity.WARNING)
def scaling_differs(config: AdapterConfig, outcome: LoadOutcome, fit: Fit) -> Iterator[Hit]:
    """The scaling in effect is not the one that the config declares.

    ## Why it matters
    The update is applied too strongly or too weakly, without a word.

    ## Common causes
    PEFT's conversion of per-expert LoRA loses rsLoRA's scaling (√2 too large for gate and up); a pattern that does not
    match as meant.

    ## Fix
    Load with the transformers release that the adapter was trained with, or correct the scaling after loading.
    """
    if config.peft_type != "LORA":
        return
    wrong = {}
    for module, value in outcome.scaling.items():
        try:
            expected = scaling_of(config, module)
        except (TypeError, ValueError):
            return
        if not math.isclose(value, expected, rel_tol=1e-6):
            wrong[module] = (value, expected)
    if wrong and not (config.get("target_parameters") and not fit.converted):
        (value, expected) = next(iter(wrong.values()))
        yield Hit(f"scaling {value:.4g} in effect, {expected:.4g} declared, for {len(wrong)} of {len(outcome.scaling)} modules",
                  count=len(wrong), examples=some(wrong))  # fmt: skip
