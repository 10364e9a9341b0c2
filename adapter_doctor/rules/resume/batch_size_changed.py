"""AD826: batch size changed."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import ResumePlan, TrainerState
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD826", Severity.WARNING)
def batch_size_changed(plan: ResumePlan, state: TrainerState) -> Iterator[Hit]:
    """Training goes on with another batch size.

    ## Why it matters
    The Trainer skips the data that were seen by counting batches of the new size, so samples are left out or come twice; it
    only logs that arguments differ.

    ## Common causes
    Another GPU, with more or less memory.

    ## Fix
    Keep the product of batch size and `gradient_accumulation_steps` as it was.
    """
    before, done = state.number("train_batch_size"), state.number("global_step") or 0
    now = plan.batch if "batch" in plan.told else None
    if now is not None and before is not None and now != before:
        yield Hit(
            f"{before} samples per device made a batch, and now {now} do: the data skipped will be those of {done:,} batches"
            f" of {now}",
            where="trainer_state.json",
        )
