"""AD814: moments missing."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Missing, OptimizerState, TensorValues, Trainable, TrainableParameters
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.optimizer_kinds import kind_of_groups, kind_of_moments
from adapter_doctor.formats.parameter_splits import paired
from adapter_doctor.rules import rule


@rule("AD814", Severity.ERROR)
def moments_missing(
    state: OptimizerState, trainables: TrainableParameters | Missing, values: TensorValues | Missing
) -> Iterator[Hit]:
    """Trained parameters have no moments in the optimizer's state.

    ## Why it matters
    They begin at zero for these parameters alone, without a word, while the others go on: a jolt in the middle of training.

    ## Common causes
    A state that was filtered or merged by hand; parameters that became trainable later.

    ## Fix
    Use the optimizer's file as the training saved it.
    """
    kind = kind_of_moments(state) or kind_of_groups(state)
    momentum = kind is not None and kind.name == "SGD" and any(group.options.get("momentum") for group in state.groups)
    if kind is None or not (kind.needed or momentum) or state.absent:
        return
    pairs = paired(state, trainables) if isinstance(trainables, TrainableParameters) else ()
    names = {key: one for key, one, _ in pairs}
    due = tuple(names) or state.order
    bare = [key for key in due if not (kept := state.moments.get(key)) or not any(True for _ in kept)]
    # A parameter that never got a gradient has no moments either; LoRA's B is then still zero.
    lost = [key for key in bare if key not in names or not _untouched(names[key], values)]
    if lost:
        yield Hit(
            f"{len(lost)} of {len(due)} parameters have no moments",
            where=state.file,
            count=len(lost),
            examples=some(names[key].name if key in names else key for key in lost),
        )


def _untouched(parameter: Trainable, values: TensorValues | Missing) -> bool:
    """Whether this parameter's adapter is as it was made: its output side is still zero."""
    if isinstance(values, Missing) or not parameter.key:
        return False
    side = parameter.key.replace("lora_A", "lora_B").replace("lora_embedding_B", "lora_embedding_A")
    side = side.replace("lora_magnitude_vector", "lora_B.weight")
    return side in values.summaries and values.summaries[side].zero
