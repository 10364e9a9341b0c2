"""AD828: scheduler groups differ."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import OptimizerState, SchedulerState
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD828", Severity.ERROR)
def scheduler_groups_differ(scheduler: SchedulerState, state: OptimizerState) -> Iterator[Hit]:
    """The saved schedule is for another number of groups than the optimizer has.

    ## Why it matters
    The load passes; the first step of the schedule raises `ValueError: zip() argument 2 is shorter than argument 1`.

    ## Common causes
    `scheduler.pt` of another run; groups added or merged since.

    ## Fix
    Put optimizer and schedule of the same checkpoint together.
    """
    rates = scheduler.raw.get("base_lrs")
    if isinstance(rates, (list, tuple)) and state.groups and len(rates) != len(state.groups):
        yield Hit(f"`base_lrs` has {len(rates)} rates, the optimizer {len(state.groups)} groups", where=scheduler.file)
    elif not scheduler.raw:
        yield Hit("the schedule's state is empty", where=scheduler.file)
