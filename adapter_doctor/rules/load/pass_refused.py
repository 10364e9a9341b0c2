"""AD509: pass refused."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import LoadOutcome
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD509", Severity.ERROR, explains=("AD506", "AD507"))
def pass_refused(outcome: LoadOutcome) -> Iterator[Hit]:
    """The adapter loads, and the first forward pass with it is certain to raise.

    ## Why it matters
    `PeftModel.from_pretrained` says nothing: every request fails.

    ## Common causes
    A learnt prefix on an architecture that takes no cache (`past_key_values`), such as DeBERTa: PEFT looks at that only
    in the forward pass.

    ## Fix
    Use a base whose forward takes `past_key_values`, or train with LoRA or with a method that needs no cache, such as
    PROMPT_TUNING.
    """
    if outcome.pass_refused:
        yield Hit(f"PEFT loads it, and raises in the first forward pass: {outcome.pass_refused}")
