"""AD833: shards of other world."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint, ResumePlan
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD833", Severity.ERROR)
def shards_of_other_world(checkpoint: Checkpoint, plan: ResumePlan) -> Iterator[Hit]:
    """DeepSpeed's state was saved by another number of processes than training goes on with.

    ## Why it matters
    ZeRO cuts the moments into a part for each process and raises `ZeRORuntimeException: The checkpoint being loaded used a DP
    world size of …`.

    ## Common causes
    Another machine, another number of GPUs; a script that was started without its launcher.

    ## Fix
    Go on with as many processes as before; or convert the checkpoint with DeepSpeed's own `ds_to_universal.py` and set
    `"checkpoint": {"load_universal": true}` in its config.
    """
    shards = checkpoint.shards
    if checkpoint.writer == "deepspeed" and shards and "world" in plan.told and plan.world != shards.world > 0:
        yield Hit(f"processes that saved the state: {shards.world}, and that go on: {plan.world}",
                  where=checkpoint.reference)  # fmt: skip
