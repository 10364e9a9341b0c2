"""AD817: trainer state unusable."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD817", Severity.ERROR, explains=("AD801", "AD809"))
def trainer_state_unusable(checkpoint: Checkpoint) -> Iterator[Hit]:
    """`trainer_state.json` is missing or cannot be read.

    ## Why it matters
    The Trainer takes the step to go on from out of it, and raises.

    ## Common causes
    An adapter that was saved for use, not a checkpoint; a file left out of an upload; a job that was killed while it saved.

    ## Fix
    Resume from a checkpoint that has it.
    """
    state = checkpoint.state("trainer_state.json")
    if checkpoint.writer != "torch" and not checkpoint.by_accelerate and not state.ok:
        fix = f"resume from {checkpoint.older[0]}, which is whole" if checkpoint.older else None
        kept = checkpoint.shards is not None or checkpoint.state(checkpoint.optimizer).state != "absent"
        if state.state == "absent" and not kept:
            yield Hit("there is neither trainer_state.json nor an optimizer's state: this is no training checkpoint",
                      where=checkpoint.reference, fix=fix)  # fmt: skip
        else:
            yield Hit(state.detail, where=state.name, fix=fix)
