"""AD801: optimizer missing."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD801", Severity.WARNING)
def optimizer_missing(checkpoint: Checkpoint) -> Iterator[Hit]:
    """The checkpoint holds no optimizer state, so that going on from it is a warm start.

    ## Why it matters
    The Trainer goes on without a word: Adam's moments begin at zero and the learning rate starts its schedule again.

    ## Common causes
    `save_only_model=True`, an upload that left the large file out, a folder that only the adapter was saved to.

    ## Fix
    Resume from an older checkpoint that has its optimizer's state. If there is none, say that it is a warm start: load
    the adapter with `is_trainable=True` and train anew with a warm-up, without `resume_from_checkpoint`.
    """
    state = checkpoint.state(checkpoint.optimizer)
    sharded = checkpoint.writer == "deepspeed" or (
        checkpoint.writer == "fsdp" and any(name.startswith("optimizer_") for name in checkpoint.files)
    )
    if state.state == "absent" and not sharded:
        lost = "its moments and the learning rate's schedule begin anew"
        if checkpoint.state("scheduler.pt").state == "absent":
            yield Hit(f"there is neither {state.name} nor scheduler.pt: {lost}", where=checkpoint.reference)
        else:
            yield Hit(
                f"there is no {state.name}, and the Trainer then leaves scheduler.pt unread as well: {lost}",
                where=checkpoint.reference,
            )
