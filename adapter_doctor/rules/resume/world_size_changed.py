"""AD825: world size changed."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint, ResumePlan
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD825", Severity.WARNING)
def world_size_changed(checkpoint: Checkpoint, plan: ResumePlan) -> Iterator[Hit]:
    """Training goes on with another number of processes.

    ## Why it matters
    The Trainer counts steps, not samples: it skips as many batches as were made, of the new total size. New processes find
    no random state.

    ## Common causes
    Another machine, another number of GPUs.

    ## Fix
    Keep processes times batch size times accumulation as it was, by changing `gradient_accumulation_steps`.
    """
    known = "world" in plan.told and plan.world is not None and checkpoint.writer != "deepspeed"  # it refuses: AD833
    if known and plan.world != checkpoint.world:
        yield Hit(f"processes that saved the checkpoint: {checkpoint.world}, and that go on: {plan.world}",
                  where=checkpoint.reference)  # fmt: skip
