"""AD829: scaler without fp16."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint, ResumePlan
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD829", Severity.ERROR)
def scaler_without_fp16(checkpoint: Checkpoint, plan: ResumePlan) -> Iterator[Hit]:
    """There is a gradient scaler's state, and the training does not use fp16.

    ## Why it matters
    The Trainer loads `scaler.pt` whenever it is there, and has no scaler without `fp16`: `AttributeError: 'NoneType' object
    has no attribute 'load_state_dict'`.

    ## Common causes
    The first part of the training ran with fp16, and the next with bf16 or full precision.

    ## Fix
    Go on with `fp16=True`; or, to go on without it, move `scaler.pt` away: nothing else needs it.
    """
    fp16 = plan.arguments.get("fp16")
    if checkpoint.writer == "trainer" and fp16 is False and "scaler.pt" in checkpoint.files:
        yield Hit("there is a scaler.pt, and training_args.bin has `fp16=False`", where="scaler.pt")
