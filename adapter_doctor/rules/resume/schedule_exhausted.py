"""AD808: schedule exhausted."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import TrainerState
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD808", Severity.WARNING)
def schedule_exhausted(state: TrainerState) -> Iterator[Hit]:
    """The training that the checkpoint belongs to is at its end.

    ## Why it matters
    A resume with the same arguments does no step at all and says so nowhere.

    ## Common causes
    It is the last checkpoint; `max_steps`, epochs or the data were made smaller, or the batch larger.

    ## Fix
    To train longer, raise `num_train_epochs` or `max_steps` before you resume; the schedule is then made for the new length.
    """
    done, most = state.number("global_step"), state.number("max_steps")
    if done is not None and most is not None and done >= most > 0:
        yield Hit(
            f"step {done:,} of {most:,} is done: a resume with the same length does no step", where="trainer_state.json"
        )
