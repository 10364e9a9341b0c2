"""AD824: newest unusable."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD824", Severity.WARNING)
def newest_unusable(checkpoint: Checkpoint) -> Iterator[Hit]:
    """The newest checkpoint in the folder cannot be resumed from.

    ## Why it matters
    `trainer.train(resume_from_checkpoint=True)` takes the one with the highest number, whatever its state.

    ## Common causes
    The job was killed, or the disk full, while it saved.

    ## Fix
    Name the checkpoint to resume from, as in `trainer.train(resume_from_checkpoint="…/checkpoint-500")`.
    """
    if checkpoint.broken:
        name, why = checkpoint.broken[0]
        fix = f"trainer.train(resume_from_checkpoint={checkpoint.reference!r})"
        yield Hit(f"{name}: {why}", where=name, count=len(checkpoint.broken),
                  examples=some(f"{one}: {reason}" for one, reason in checkpoint.broken[1:]), fix=fix)  # fmt: skip
