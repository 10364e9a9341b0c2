"""AD809: rng state missing."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD809", Severity.NOTE)
def rng_state_missing(checkpoint: Checkpoint) -> Iterator[Hit]:
    """The checkpoint holds no random state.

    ## Why it matters
    Dropout and the order of the data differ from those of an unbroken run; nothing else is lost.

    ## Common causes
    Files left out of an upload; a checkpoint of several processes resumed by one, or the other way round.

    ## Fix
    Nothing needs to be done where exact repetition does not matter.
    """
    there = any(name.startswith(("rng_state", "random_states")) for name in checkpoint.files)
    if checkpoint.writer in ("trainer", "accelerate") and not there and checkpoint.state(checkpoint.optimizer).ok:
        yield Hit("there is no rng_state.pth: dropout and data order will not be those of an unbroken run",
                  where=checkpoint.reference)  # fmt: skip
