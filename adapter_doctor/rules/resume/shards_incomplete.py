"""AD832: shards incomplete."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD832", Severity.ERROR)
def shards_incomplete(checkpoint: Checkpoint) -> Iterator[Hit]:
    """Files in which the processes kept their parts of the state are missing or cannot be read.

    ## Why it matters
    Each process opens its own. The one without raises, or finds no checkpoint at all, and the others wait for it or die
    with `Connection closed by peer`, which hides the cause.

    ## Common causes
    A job that was killed while it saved; each node saved to a disk of its own; a copy of the first node's files; `latest`
    that was written for a later step.

    ## Fix
    Bring the files of all nodes together in one folder, or resume from the checkpoint before it.
    """
    shards = checkpoint.shards
    if shards is None:
        return
    fix = f"resume from {checkpoint.older[0]}, which is whole" if checkpoint.older else None
    if shards.lost:
        more = f" and {len(shards.lost) - 1} further files" if len(shards.lost) > 1 else ""
        saved = f", of what {shards.world} processes saved" if shards.world > 1 else ""
        yield Hit(
            f"there is no {shards.lost[0]}{more}{saved}",
            where=checkpoint.reference, count=len(shards.lost), examples=some(shards.lost[1:]), fix=fix,
        )  # fmt: skip
    for name, why in shards.broken:
        yield Hit(why, where=name, fix=fix)
