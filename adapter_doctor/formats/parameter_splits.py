"""How optimizers sort an adapter's parameters into groups, and which saved moments thereby meet which parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adapter_doctor.facts import Moments, OptimizerState, ParameterGroup, Trainable, TrainableParameters

TRAINER = "the Trainer"


def splits(trainables: TrainableParameters) -> dict[str, tuple[tuple[Trainable, ...], ...]]:
    """The ways in which optimizers are known to group these parameters, by what makes them, the Trainer's own first."""
    decayed, plain = trainables.groups
    every = trainables.parameters

    def flat(one: Trainable) -> bool:
        return "lora_B" in one.name or len(one.shape) == 1

    embedding = tuple(one for one in every if ".lora_embedding_" in one.name)
    rest = [one for one in every if one not in embedding]
    plus = (
        tuple(one for one in rest if not flat(one)), embedding,
        tuple(one for one in rest if flat(one) and one.decays), tuple(one for one in rest if flat(one) and not one.decays),
    )  # fmt: skip
    return {
        TRAINER: (decayed, plain),
        "LoRA+ (peft.optimizers.create_loraplus_optimizer)": plus,
        "an optimizer made of all parameters at once": (every,),
        "an optimizer with a group for each parameter": tuple((one,) for one in every),
    }


def split_of(sizes: Sequence[int], trainables: TrainableParameters) -> tuple[str, tuple[Trainable | None, ...]] | None:
    """Which known split has groups of these sizes, and its parameters in order, None for a frozen one; None if none has.

    A training loop that hands `model.parameters()` over puts the frozen ones in as well.
    """
    for name, groups in splits(trainables).items():
        if tuple(sizes) == tuple(len(group) for group in groups):
            return name, tuple(one for group in groups for one in group)
    if tuple(sizes) == (trainables.total,):
        places = {one.place: one for one in trainables.parameters}
        return "an optimizer made of all parameters, frozen ones too", tuple(map(places.get, range(trainables.total)))
    return None


def in_places(state: OptimizerState, trainables: TrainableParameters) -> OptimizerState:
    """A state whose parameters go by names, as FSDP saves it, with them in the places where the Trainer has them.

    One group stays one, as a training loop of one's own makes it. What the state has beyond them counts as extra. One
    that names none of them is left as it is.
    """
    names = {one.name for one in trainables.parameters}
    if not names & set(state.order):
        return state
    options = [group.options for group in state.groups]
    groups = tuple(
        ParameterGroup(tuple(one.name for one in group), options[min(number, len(options) - 1)])
        for number, group in enumerate(trainables.groups if len(options) != 1 else (trainables.parameters,))
    )
    beyond = tuple(f"state[{one!r}]" for one in state.order if one not in names)
    return replace(state, groups=groups, extra=state.extra + beyond)


Pair = tuple[int | str, Trainable, Moments | None]


def paired(state: OptimizerState, trainables: TrainableParameters) -> tuple[Pair, ...]:
    """Each id of the state with the parameter that torch gives its moments to; none where the groups do not fit."""
    split = split_of(state.sizes, trainables)
    if split is None:
        return ()
    pairs = zip(state.order, split[1], strict=True)
    return tuple((key, one, state.moments.get(key)) for key, one in pairs if one is not None)
