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
    wants the number of processes of the training; FSDP puts its shards together for any.

    ## Common causes
    A checkpoint of a cluster, continued on one machine.

    ## Fix
    Resume with the same engine and the same number of processes.
    """
    if checkpoint.writer not in ("deepspeed", "fsdp"):
        return
    shards = [name for name in checkpoint.files if re.search(_SHARD[checkpoint.writer], name)]
    # Without ZeRO the state lies beside the model's.
    shards = shards or [name for name in checkpoint.files if name.endswith("_model_states.pt")]
    ends = {
        "deepspeed": "a Trainer without DeepSpeed leaves it unread without a word",
        "fsdp": "a Trainer without FSDP raises",
    }[checkpoint.writer]
    name = {"deepspeed": "DeepSpeed", "fsdp": "FSDP"}[checkpoint.writer]
    processes = checkpoint.shards.world if checkpoint.shards else 1
    world = f" of {processes} processes" if processes > 1 else ""
    yield Hit(
        f"the optimizer's state lies in {len(shards)} {'file' if len(shards) == 1 else 'files'} of {name}{world}; {ends}",
        where=checkpoint.reference,
        count=max(1, len(shards)),
        examples=some(sorted(shards)),
    )


_SHARD = {"deepspeed": r"optim_states\.pt$", "fsdp": r"optimizer(_\d+/.*\.distcp|(_\d+_rank\d+)?\.bin)$"}
