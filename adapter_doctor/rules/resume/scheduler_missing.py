"""AD812: scheduler missing."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD812", Severity.ERROR)
def scheduler_missing(checkpoint: Checkpoint) -> Iterator[Hit]:
    """There is an optimizer's state but no `scheduler.pt`, and the Trainer then loads neither.

    ## Why it matters
    The Trainer goes on at the right step with a fresh optimizer and a learning rate at the start of its schedule, without
    a word.

    ## Common causes
    An upload or a copy that left the small file out; a disk that was full.

    ## Fix
    Copy `scheduler.pt` of the same checkpoint back. Where it is lost, resume from an older checkpoint.
    """
    whole = checkpoint.writer in ("trainer", "fsdp") and checkpoint.state(checkpoint.optimizer).ok
    parts = checkpoint.writer == "fsdp" and any(name.startswith("optimizer_0/") for name in checkpoint.files)
    if (whole or parts) and not checkpoint.by_accelerate and checkpoint.state("scheduler.pt").state == "absent":
        yield Hit(
            f"there is {'optimizer_0' if parts else checkpoint.optimizer} and no scheduler.pt: the Trainer would load neither",
            where=checkpoint.reference,
            fix=f"resume from {checkpoint.older[0]}, which is whole" if checkpoint.older else None,
        )
