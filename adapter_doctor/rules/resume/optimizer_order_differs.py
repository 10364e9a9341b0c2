"""AD805: optimizer order differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from adapter_doctor.facts import OptimizerState, TrainableParameters
from adapter_doctor.findings import Hit, Severity, Undecided, some
from adapter_doctor.formats.optimizer_kinds import shape_of
from adapter_doctor.formats.parameter_splits import paired
from adapter_doctor.rules import rule


@rule("AD805", Severity.ERROR, explains=("AD831",))
def optimizer_order_differs(state: OptimizerState, trainables: TrainableParameters) -> Iterator[Hit]:
    """The optimizer's moments are in another order than the parameters they go to.

    ## Why it matters
    torch pairs moments and parameters by position alone, even where names were saved. Parameters of equal shape take each
    other's moments without a word, and the training is driven by the wrong ones.

    ## Common causes
    Another order of modules in the code or in PEFT; groups put together in another way; a state edited by hand.

    ## Fix
    Make the optimizer's groups in the order of the training, with the versions of PEFT and transformers that it ran on.
    """
    pairs = paired(state, trainables)
    shapes = [(one, shape_of(kept) if kept is not None else None) for _, one, kept in pairs]
    known = [(one, shape) for one, shape in shapes if shape is not None]
    same = Counter(one.shape for one, _ in known) == Counter(shape for _, shape in known)
    if pairs and same and not trainables.ordered:
        raise Undecided("the base's checkpoint lists its modules in another order than the model has them")
    names = [name for group in state.groups for name in group.names]
    own = [one.name for _, one, _ in pairs]
    if len(names) == len(own) and names != own and set(names) == set(own):
        wrong = [(was, now) for was, now in zip(names, own, strict=True) if was != now]
        yield Hit(
            f"{len(wrong)} of {len(pairs)} moments were saved for another parameter, by the names in the state",
            where=state.file, count=len(wrong), examples=some(f"{was} → {now}" for was, now in wrong),
        )  # fmt: skip
        return
    moved = [(one, shape) for one, shape in known if one.shape != shape]
    if moved and same:
        first, shape = moved[0]
        yield Hit(
            f"{len(moved)} of {len(pairs)} moments have the shape of another parameter: {list(shape)} where"
            f" {list(first.shape)} is due, and all shapes together agree",
            where=state.file, count=len(moved), examples=some(one.name for one, _ in moved),
        )  # fmt: skip
