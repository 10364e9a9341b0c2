"""AD804: optimizer shapes differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from adapter_doctor.facts import OptimizerState, TrainableParameters
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.optimizer_kinds import shape_of
from adapter_doctor.formats.parameter_splits import paired
from adapter_doctor.rules import rule


@rule("AD804", Severity.ERROR, explains=("AD805",))
def optimizer_shapes_differ(state: OptimizerState, trainables: TrainableParameters) -> Iterator[Hit]:
    """The optimizer's moments have other shapes than the parameters they go to.

    ## Why it matters
    `load_state_dict` compares no shapes. The first step then raises, or, with the fused kernel that the Trainer uses by
    default, reads and writes beyond the moments: wrong training without a word, or a crash of the process.

    ## Common causes
    Another rank, another vocabulary, other targets of the same number; the optimizer's file of another run.

    ## Fix
    Use the optimizer's file that was saved with this adapter, on the same base and config.
    """
    pairs = paired(state, trainables)
    shapes = [(one, shape_of(kept)) for _, one, kept in pairs if kept is not None]
    known = [(one, shape) for one, shape in shapes if shape is not None]
    if Counter(one.shape for one, _ in known) == Counter(shape for _, shape in known):
        return  # the same shapes in another order are another matter
    if trainables.ordered:
        wrong = [(one, shape) for one, shape in known if one.shape != shape]
    else:
        spare = Counter(shape for _, shape in known) - Counter(one.shape for one, _ in known)
        wrong = [(one, shape) for one, shape in known if spare[shape] > 0]
    first, shape = wrong[0]
    fused = any(group.options.get("fused") for group in state.groups)
    yield Hit(
        f"{len(wrong)} of {len(pairs)} parameters have moments of another shape: {list(shape)} in the state"
        + (f", {list(first.shape)} in the model" if trainables.ordered else ", which no parameter has")
        + ("; the fused kernel does not check, so this crashes or trains wrongly" if fused else ""),
        where=state.file,
        count=len(wrong),
        examples=some(one.name for one, _ in wrong) if trainables.ordered else (),
    )
