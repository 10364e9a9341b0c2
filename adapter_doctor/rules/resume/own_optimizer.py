"""AD830: own optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import OptimizerState, ResumePlan
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.optimizer_kinds import called, kind_of_groups, kind_of_moments, same_moments
from adapter_doctor.rules import rule


@rule("AD830", Severity.WARNING)
def own_optimizer(state: OptimizerState, plan: ResumePlan) -> Iterator[Hit]:
    """The state is of another optimizer than the one that the training's arguments name.

    ## Why it matters
    A Trainer that makes its optimizer from these arguments loads the state and raises `KeyError` at the first step.

    ## Common causes
    The training handed its optimizer to the Trainer (`optimizers=`), or overrode `create_optimizer`.

    ## Fix
    Make the same optimizer again, and hand it over: `Trainer(optimizers=(optimizer, None))`.
    """
    named = called(plan.optimizer) if "optimizer" not in plan.told else None
    found = kind_of_moments(state) or kind_of_groups(state)
    if named is not None and found is not None and not same_moments(found, named):
        yield Hit(
            f"the state is that of {found.name}, and training_args.bin names `optim={plan.optimizer}`", where=state.file
        )
