"""AD820: state file unreadable."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD820", Severity.ERROR)
def state_file_unreadable(checkpoint: Checkpoint) -> Iterator[Hit]:
    """A file that a resume opens beside the optimizer's cannot be read.

    ## Why it matters
    The Trainer opens the schedule, the gradient scaler and the random state if they are there, and raises.

    ## Common causes
    A disk that was full or a job that was killed while it saved; `git clone` without LFS.

    ## Fix
    Resume from the checkpoint before it. `rng_state.pth` alone may be taken away: only exact repetition is lost.
    """
    for name, state in checkpoint.states.items():
        opened = name.startswith(("scheduler", "scaler", "rng_state"))
        if opened and not state.ok:
            yield Hit(state.detail, where=name, fix=_fix(checkpoint, name))


def _fix(checkpoint: Checkpoint, name: str) -> str | None:
    if name.startswith("rng_state"):
        return f"move {name} away: dropout and data order then differ from an unbroken run, and nothing else is lost"
    return f"resume from {checkpoint.older[0]}, which is whole" if checkpoint.older else None
