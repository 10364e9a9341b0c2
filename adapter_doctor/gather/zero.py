"""Gather what DeepSpeed's ZeRO left in a checkpoint: which of its files are due, there and sound, and what they hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from adapter_doctor.facts import (
    FileState,
    Missing,
    MomentsPart,
    OptimizerState,
    Shards,
    TensorInfo,
)
from adapter_doctor.formats.optimizer_state import NoOptimizerState, read_state
from adapter_doctor.formats.zero_state import NotTogether, put_together
from adapter_doctor.sources import Source, Unreachable

LATEST, SCHEDULER, TRAINER = "latest", "scheduler.pt", "trainer_state.json"
MOST_FILES = 2048
_OPTIMIZER = re.compile(r"((?:bf16_|fp16_)?)zero_pp_rank_(\d{1,9})_mp_rank_00_optim_states\.pt")
_MODEL = re.compile(r"(zero_pp_rank_\d+_)?mp_rank_00_model_states\.pt")
_OWN = re.compile(
    r"deepspeed\.(runtime\.(fp16\.loss_scaler|zero\.\w+)|utils\.tensor_fragment)\.\w+|torch\.(Tensor|\w+Storage)"
)
"""What its files name; it reads them without `weights_only`, so that anything else would run."""
_READ = ("ok", "too-large")
"""States of files against which nothing is known; of the second kind no more is."""

Open = Callable[[Source, str, re.Pattern[str]], tuple[FileState, Any]]


def gather_zero(
    source: Source, files: Mapping[str, int], opened: Open, step: Callable[[TensorInfo], float | None] | None
) -> tuple[Shards, OptimizerState | Missing]:
    """The files of the step that `latest` names, and the state that they are put together to; without ``step`` no state."""
    folder, lost = _folder(source, files)
    inside = [name.removeprefix(f"{folder}/") for name in files if name.startswith(f"{folder}/")]
    optimizers = {int(match[2]): match for name in inside if (match := _OPTIMIZER.fullmatch(name))}
    models = sorted(name for name in inside if _MODEL.fullmatch(name))
    shards = Shards(folder, max(optimizers, default=0) + 1, lost)
    if len(optimizers) > MOST_FILES:
        return shards, Missing(f"it has files of more than {MOST_FILES:,} processes, which are not read")
    if not models:
        lost = lost or (f"{folder}/mp_rank_00_model_states.pt",)
        return replace(shards, lost=lost), Missing("the parameters are named in a file that is not there", waived=True)
    states, values = {}, {}
    for name in (models[0], *(optimizers[rank][0] for rank in sorted(optimizers))):
        states[name], values[name] = opened(source, f"{folder}/{name}", _OWN)
    model = values[models[0]] if isinstance(values[models[0]], dict) else {}
    world = model.get("dp_world_size")
    world = world if type(world) is int and 0 < world <= MOST_FILES else min(shards.world, MOST_FILES)
    if SCHEDULER not in files and TRAINER in files and model.get("lr_scheduler", ...) is None:
        lost = (*lost, SCHEDULER)  # the Trainer opens its own without a look
    due = _due(models[0], optimizers, world) if optimizers or not isinstance(model.get("optimizer"), dict) else []
    shards = replace(
        shards, world=world,
        lost=(*lost, *(f"{folder}/{name}" for name in due if name not in inside)),
        broken=tuple((f"{folder}/{name}", state.detail) for name, state in states.items() if state.state not in _READ),
    )  # fmt: skip
    if model.get("mp_world_size", 1) != 1:
        return shards, Missing("the model itself was split over processes, which only DeepSpeed puts together")
    if step is None:
        return shards, Missing("only its files were asked for")
    try:
        if not due:  # without ZeRO the state is whole, beside the model's
            state = read_state(model["optimizer"], f"{folder}/{models[0]}", step)
            kept = [(key, name, info) for key, one in state.moments.items() for name, info in one.tensors.items()]
            return replace(shards, parts=tuple(MomentsPart(*one) for one in kept if one[2].start)), state
        state, parts = put_together(model, [values.get(name) for name in due[:world]], folder, step)
    except (NoOptimizerState, NotTogether) as trouble:
        hurt = bool(shards.lost or shards.broken)
        return shards, Missing(f"the optimizer's state is not put together: {trouble}", waived=hurt)
    return replace(shards, parts=parts), state


def _due(model: str, optimizers: Mapping[int, re.Match[str]], world: int) -> list[str]:
    """The files of the processes, those of the optimizer first."""
    prefix = next(iter(optimizers.values()))[1] if optimizers else ""
    due = [f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(world)]
    third = [f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(world)]
    return due + third if model.startswith("zero_") else due


def _folder(source: Source, files: Mapping[str, int]) -> tuple[str, tuple[str, ...]]:
    """The folder that `latest` names, else the newest; and what is not there of the two."""
    there = {name.partition("/")[0] for name in files if re.match(r"global_step\d+/", name)}
    newest = max(there, key=lambda name: int(name.removeprefix("global_step")), default="")
    if LATEST not in files:
        return newest, (LATEST,)
    try:
        named = source.read(LATEST, 0, 200).decode("utf-8", "replace").strip()
    except Unreachable:
        named = ""
    if not named:
        return newest, (LATEST,)
    return named, () if any(name.startswith(f"{named}/") for name in files) else (f"{named}/",)
