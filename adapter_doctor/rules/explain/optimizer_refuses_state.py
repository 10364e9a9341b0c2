"""AD920: optimizer refuses state."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD920", Severity.ERROR)
def optimizer_refuses_state(messages: Messages) -> Iterator[Hit]:
    """The optimizer or scheduler refused the state that it was given.

    ## Why it matters
    Without its state training does not continue: it starts again with cold moments, or stops.

    ## Common causes
    Other trainable parameters than when it was saved (targets, rank, `is_trainable`), another optimizer, a checkpoint
    of other software.

    ## Fix
    Make the trainable parameters and the optimizer those of the checkpoint; `adapter-doctor resume BASE CHECKPOINT`
    says which differ. An optimizer's `load_state_dict` has no `strict`, and deleting `optimizer.pt` loses the moments.
    """
    yield from messages.hits("AD920")
