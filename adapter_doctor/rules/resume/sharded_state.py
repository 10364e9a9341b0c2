"""AD810: sharded state."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD810", Severity.WARNING)
def sharded_state(checkpoint: Checkpoint) -> Iterator[Hit]:
    """The optimizer's state was saved by DeepSpeed or FSDP, in a form of its own.

    ## Why it matters
    A Trainer without DeepSpeed goes on from it with a fresh optimizer and says nothing; without FSDP it raises. DeepSpeed
    wants the number of processes of the training.

    ## Common causes
    A checkpoint of a cluster, continued on one machine.

    ## Fix
    Resume with the same engine and the same number of processes.
    """
    if checkpoint.writer not in ("deepspeed", "fsdp"):
        return
    shards = [name for name in checkpoint.files if re.search(r"optim|__\d+_\d+\.distcp", name)]
    ranks = {match[1] for name in shards if (match := re.search(r"pp_rank_(\d+)", name))}
    ends = {
        "deepspeed": "a Trainer without DeepSpeed leaves it unread without a word",
        "fsdp": "a Trainer without FSDP raises",
    }[checkpoint.writer]
    name = {"deepspeed": "DeepSpeed", "fsdp": "FSDP"}[checkpoint.writer]
    world = f" of {len(ranks)} processes" if len(ranks) > 1 else ""
    yield Hit(
        f"the optimizer's state lies in {len(shards)} files of {name}{world}; {ends}",
        where=checkpoint.reference,
        count=max(1, len(shards)),
        examples=some(sorted(shards)),
    )
