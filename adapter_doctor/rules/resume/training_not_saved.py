"""AD816: training not saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from adapter_doctor.facts import BaseModules, Missing, OptimizerState, Shape, TrainableParameters
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.optimizer_kinds import shape_of
from adapter_doctor.formats.parameter_splits import split_of
from adapter_doctor.rules import rule


@rule("AD816", Severity.ERROR, explains=("AD803", "AD804", "AD815"))
def training_not_saved(
    state: OptimizerState, trainables: TrainableParameters, base: BaseModules | Missing
) -> Iterator[Hit]:
    """Parameters were trained that the checkpoint does not hold.

    ## Why it matters
    They go on from what the base, or chance, has for them, under the moments of what is lost, without a word. Their training
    is not in any file.

    ## Common causes
    `requires_grad_(True)` on parts of the base, which PEFT does not save; prompt encoders (P-tuning, prefix tuning with
    projection), of which only the finished prompt is saved.

    ## Fix
    Name such parts in `modules_to_save`, so that they are saved, and train again. A prompt encoder cannot be gone on with.
    """
    lost = [one for one in trainables.parameters if not one.key]
    if lost and sum(state.sizes) == len(trainables.parameters):
        yield Hit(
            f"{len(lost)} of {len(trainables.parameters)} parameters that train have no place in the adapter's file",
            where=state.file,
            count=len(lost),
            examples=some(one.name for one in lost),
        )
        return
    beyond = sum(state.sizes) - len(trainables.parameters)
    if beyond <= 0 or isinstance(base, Missing) or split_of(state.sizes, trainables) is not None:
        return
    shapes = [shape for shape in map(shape_of, state.moments.values()) if shape is not None]
    over = Counter(shapes) - Counter(one.shape for one in trainables.parameters)
    weights = list(base.parameters())
    named = {shape: [name for name, own in weights if own == shape] for shape in over}
    if sum(over.values()) == beyond and all(named.values()):
        yield Hit(
            f"the optimizer's state is for {beyond} more than the adapter's parameters, of the shape of the base's own"
            f" {_shapes(over)}: they were trained and not saved",
            where=state.file,
            count=beyond,
            examples=some(name for names in named.values() for name in names),
        )


def _shapes(over: Counter[Shape]) -> str:
    return ", ".join(str(list(shape)) for shape in list(over)[:3])
