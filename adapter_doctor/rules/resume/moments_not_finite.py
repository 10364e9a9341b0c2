"""AD819: moments not finite."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Missing, OptimizerState, OptimizerValues, TrainableParameters
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.parameter_splits import paired
from adapter_doctor.rules import rule


@rule("AD819", Severity.ERROR)
def moments_not_finite(
    state: OptimizerState, values: OptimizerValues, trainables: TrainableParameters | Missing
) -> Iterator[Hit]:
    """The optimizer's moments hold NaN or infinity.

    ## Why it matters
    The first step turns the parameters into NaN, and the whole model with them.

    ## Common causes
    The training had diverged before it saved; fp16 overflow; a damaged file.

    ## Fix
    Resume from a checkpoint before the loss became NaN, with a lower learning rate or gradient clipping.
    """
    if not values.not_finite:
        return
    names = (
        {key: one.name for key, one, _ in paired(state, trainables)}
        if isinstance(trainables, TrainableParameters)
        else {}
    )
    yield Hit(
        f"the moments of {len(values.not_finite)} of {len(state.order)} parameters are not finite",
        where=state.file,
        count=len(values.not_finite),
        examples=some(names.get(key, key) for key in values.not_finite),
    )
