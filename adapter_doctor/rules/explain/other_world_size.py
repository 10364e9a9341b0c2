"""AD931: other world size."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD931", Severity.ERROR, explains=("AD211", "AD306", "AD308", "AD314", "AD907", "AD909"))
def other_world_size(messages: Messages) -> Iterator[Hit]:
    """A sharded checkpoint is read under other conditions than it was saved under.

    ## Why it matters
    Shards belong to ranks: with another number of processes or another sharding they do not fit together.

    ## Common causes
    Resuming a DeepSpeed or FSDP checkpoint on another number of GPUs, with another ZeRO stage, or with other wrapping;
    FSDP's flattened tensors, or one process's part, taken for whole weights.

    ## Fix
    Resume with the world size and stage of the checkpoint, or convert it first (`zero_to_fp32.py`, DeepSpeed's
    universal checkpoint, a full state dict).
    """
    yield from messages.hits("AD931")
