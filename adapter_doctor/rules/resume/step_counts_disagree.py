"""AD811: step counts disagree."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint, Missing, OptimizerState, SchedulerState, TrainerState
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD811", Severity.WARNING)
def step_counts_disagree(
    trainer: TrainerState,
    scheduler: SchedulerState | Missing,
    optimizer: OptimizerState | Missing,
    checkpoint: Checkpoint,
) -> Iterator[Hit]:
    """Optimizer, schedule and trainer have counted different numbers of steps.

    ## Why it matters
    They do not come from the same moment. The learning rate is then that of another step, or Adam's moments are fresher
    than the weights: the trace of an earlier resume without the optimizer's state.

    ## Common causes
    Files of two checkpoints in one folder; a resume that began with a fresh optimizer; a scheduler stepped elsewhere.

    ## Fix
    Resume from a checkpoint whose files belong together.
    """
    done = trainer.number("global_step")
    if done is None:
        return
    counts = {"trainer_state.json": done}
    if isinstance(scheduler, SchedulerState) and scheduler.step is not None:
        counts["the schedule"] = scheduler.step
    if isinstance(optimizer, OptimizerState) and optimizer.steps:
        counts["the optimizer"] = int(max(optimizer.steps))
    # With fp16 the steps whose gradients overflow are made by the trainer alone.
    few = max(20, done // 10) if "scaler.pt" in checkpoint.files else 0
    if any(count > done or count < done - few for count in counts.values()):
        yield Hit("steps made: " + ", ".join(f"{count:,} by {who}" for who, count in counts.items()),
                  where=checkpoint.reference)  # fmt: skip
