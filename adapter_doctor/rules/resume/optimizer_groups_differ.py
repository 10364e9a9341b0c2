"""AD803: optimizer groups differ."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import OptimizerState, TrainableParameters
from adapter_doctor.findings import Hit, Severity, Undecided, some
from adapter_doctor.formats.parameter_splits import split_of
from adapter_doctor.rules import rule


@rule("AD803", Severity.ERROR)
def optimizer_groups_differ(state: OptimizerState, trainables: TrainableParameters) -> Iterator[Hit]:
    """The optimizer's parameter groups have other sizes than this adapter on this base makes.

    ## Why it matters
    `Optimizer.load_state_dict` checks the number of groups and their sizes, and raises. It has no `strict`: there is no way
    to load a part of the state, and a part would go to the wrong parameters.

    ## Common causes
    Other `target_modules`, `modules_to_save` or `bias` than in training; a layer frozen or unfrozen by hand; another
    optimizer's grouping; another transformers, which decays other parameters.

    ## Fix
    Make the same parameters trainable as in training, in the same groups: the checkpoint's `adapter_config.json`
    with `is_trainable=True`, and what the training script unfroze besides.
    """
    if state.absent or split_of(state.sizes, trainables) is not None:
        return
    if trainables.origin == "predicted" and len(state.sizes) == 1 and state.sizes[0] > len(trainables.parameters):
        raise Undecided("whether its one group holds the frozen parameters as well can only be told by loading")
    made = tuple(len(group) for group in trainables.groups)
    here, there = sum(state.sizes), len(trainables.parameters)
    yield Hit(
        f"the state has groups of {_listed(state.sizes)} parameters; this adapter on this base has {there} that train,"
        f" in groups of {_listed(made)}",
        where=state.file,
        count=abs(here - there) or 1,
        examples=some(_unsaved(state, trainables)),
    )


def _listed(sizes: tuple[int, ...]) -> str:
    shown = [str(size) for size in sizes[:6]]
    return f"{', '.join(shown)} …" if len(sizes) > 6 else " and ".join(shown) or "no"


def _unsaved(state: OptimizerState, trainables: TrainableParameters) -> list[str]:
    """Parameters beyond those that the state has names for, where it has any."""
    names = {name for group in state.groups for name in group.names}
    return [one.name for one in trainables.parameters if one.name not in names] if names else []
