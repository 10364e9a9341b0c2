"""AD815: other trainable set."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, Fit, OptimizerState, TrainableParameters
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.parameter_splits import split_of
from adapter_doctor.rules import rule


@rule("AD815", Severity.ERROR, explains=("AD803", "AD804", "AD814"))
def other_trainable_set(
    state: OptimizerState, tensors: AdapterTensors, trainables: TrainableParameters, fit: Fit
) -> Iterator[Hit]:
    """The optimizer's parameters are not those that the adapter's file holds.

    ## Why it matters
    Adapter and optimizer come from different moments or runs, so one of them is the wrong one to go on with.

    ## Common causes
    `optimizer.pt` was copied from another run; the adapter was saved again with other targets.

    ## Fix
    Put adapter and optimizer of the same checkpoint together.
    """
    keys = {one.key for one in trainables.parameters if one.key}
    saved = [key for key in tensors if key in keys] + list(fit.strays)
    count, here = len(state.order), len(trainables.parameters)
    whole = trainables.origin == "predicted" and len(state.sizes) == 1 and count > here  # maybe with the frozen ones
    if state.absent or not keys or len(saved) != here or whole or split_of(state.sizes, trainables) is not None:
        return
    if count == here:
        return  # the same parameters in other groups are another matter
    yield Hit(
        f"the optimizer's state is for {count} parameters, the adapter has {len(saved)} that train",
        where=state.file,
        count=abs(count - len(saved)),
    )
