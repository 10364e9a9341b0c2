"""AD821: arguments overruled."""

from __future__ import annotations

import math
from collections.abc import Iterator

from adapter_doctor.facts import Missing, OptimizerState, ResumePlan, TrainableParameters
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.parameter_splits import TRAINER, split_of
from adapter_doctor.rules import rule


@rule("AD821", Severity.WARNING)
def arguments_overruled(
    state: OptimizerState, plan: ResumePlan, trainables: TrainableParameters | Missing
) -> Iterator[Hit]:
    """The optimizer's state brings another learning rate or weight decay than the arguments name.

    ## Why it matters
    `load_state_dict` puts the saved groups in place of the new ones, and the schedule keeps its own base rates: what the
    arguments say is without effect, and nothing says so.

    ## Common causes
    `learning_rate` or `weight_decay` was changed for an earlier resume.

    ## Fix
    After the Trainer has loaded the state, set the rates in `optimizer.param_groups` (`initial_lr` too) and in
    `lr_scheduler.base_lrs`; or go on with the old ones.
    """
    split = split_of(state.sizes, trainables) if isinstance(trainables, TrainableParameters) else None
    if split is not None and split[0] != TRAINER:
        return  # an optimizer of the user's own has its own rates
    for name, option in (("learning_rate", "initial_lr"), ("weight_decay", "weight_decay")):
        asked = plan.arguments.get(name)
        kept = [one for group in state.groups if isinstance(one := group.options.get(option), (int, float))]
        if isinstance(asked, (int, float)) and kept and not any(math.isclose(one, asked, rel_tol=1e-6) for one in kept):
            yield Hit(
                f"`{name}` is {asked:g} in training_args.bin, and {max(kept):g} in the state, which counts",
                where=state.file,
            )
