"""AD935: checkpoint not found."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD935", Severity.ERROR)
def checkpoint_not_found(messages: Messages) -> Iterator[Hit]:
    """No checkpoint to resume from, or no best model, was found where it was looked for.

    ## Why it matters
    Training would start again from zero, or end with the last weights in place of the best.

    ## Common causes
    The adapter's files lie in a subfolder with its name, the folder is not a checkpoint, transformers is too old to
    resume adapters.

    ## Fix
    Give the folder that holds `trainer_state.json` beside the adapter's files; `adapter-doctor resume BASE FOLDER` says
    what is missing.
    """
    yield from messages.hits("AD935")
