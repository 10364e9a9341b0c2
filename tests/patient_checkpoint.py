"""The healthy patient as a training checkpoint: what the Trainer saved beside its adapter, and the changes that hurt it.

checkpoint.FIELD                fields of Checkpoint; `files` are added to those that are there
checkpoint.lost = ["FILE"]      files that are not there
checkpoint.states.FILE.{state,detail,size}      files that are there and not sound
checkpoint.shards = {}          fields of Shards
optimizer.lr, optimizer.options.NAME            options of every group
optimizer.sizes = [30, 2]       the parameters in other groups
optimizer.{forgotten,swapped}   ids without moments; pairs of ids whose moments are exchanged
optimizer.shapes.ID = SHAPE     moments of another shape
optimizer.{kept,dtype,lacking}  what is kept of each parameter, its dtype, and options that the groups lack
optimizer.more = [SHAPE]        parameters beyond the adapter's
optimizer.{names,extra,absent,inside,steps}     fields of OptimizerState; `names` = "own" or a list
moments.*, trainer.*, scheduler.*, plan.*       fields of the other facts
trainable.{origin,ordered}; trainable.{drop,keyless} = REGEX     what trains
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapter_doctor.facts import (
    AdapterConfig,
    AdapterFolder,
    AdapterTensors,
    BaseConfig,
    BaseModules,
    Checkpoint,
    Facts,
    FileState,
    Fit,
    Missing,
    Moments,
    OptimizerState,
    OptimizerValues,
    ParameterGroup,
    ResumePlan,
    SchedulerState,
    Shards,
    TensorInfo,
    TrainableParameters,
    TrainerState,
)
from adapter_doctor.formats.parameter_splits import split_of
from adapter_doctor.placement import foretell
from adapter_doctor.trainables import foretell_trainables

STEP, OPTIMIZER = 300, "optimizer.pt"
SECTIONS = frozenset({"checkpoint", "optimizer", "moments", "trainer", "scheduler", "plan", "trainable"})
KEYS = {
    "optimizer": (
        "options", "sizes", "forgotten", "swapped", "shapes", "kept", "dtype", "lacking", "more", "names", "extra",
        "absent", "inside", "steps",
    ),
    "trainable": ("origin", "ordered", "drop", "keyless"),
}  # fmt: skip
_OPTIONS: Mapping[str, Any] = {
    "lr": 5e-05, "weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-08, "amsgrad": False, "maximize": False,
    "foreach": None, "capturable": False, "differentiable": False, "fused": True, "decoupled_weight_decay": True,
    "initial_lr": 0.0001,
}  # fmt: skip
_ARGUMENTS: Mapping[str, Any] = {
    "optim": "adamw_torch_fused", "learning_rate": 0.0001, "weight_decay": 0.0, "fp16": False, "max_steps": 600,
    "per_device_train_batch_size": 4,
}  # fmt: skip
_FILES = {
    "adapter_config.json": 1_000, "adapter_model.safetensors": 60_000, OPTIMIZER: 130_000, "scheduler.pt": 1_400,
    "rng_state.pth": 14_000, "trainer_state.json": 4_000, "training_args.bin": 6_000,
}  # fmt: skip
_OPENED = (OPTIMIZER, "scheduler.pt", "rng_state.pth", "trainer_state.json", "training_args.bin")


def checkpoint_facts(
    facts: Facts, changes: Mapping[str, Any], trained: tuple[AdapterConfig, BaseConfig, BaseModules]
) -> Facts:
    """``facts`` with those of the checkpoint, whose optimizer had the parameters that ``trained`` makes trainable."""
    folder = facts.get(AdapterFolder)
    given = dict(changes.get("checkpoint", {}))
    files = {**_FILES, **(given.pop("files", {}))}
    lost = given.pop("lost", ())
    states = {name: FileState(name, "ok", size=files[name]) for name in _OPENED if name not in lost}
    states |= {name: FileState(**{"name": name, "size": 900, **one}) for name, one in given.pop("states", {}).items()}
    for name in lost:
        del files[name]
    given["broken"] = tuple(tuple(one) for one in given.get("broken", ()))
    if "shards" in given:
        listed = {name: tuple(map(_pair, given["shards"].get(name, ()))) for name in ("lost", "broken")}
        given["shards"] = Shards(**{**given["shards"], **listed})
    given["older"] = tuple(given.get("older", ()))
    reference = folder.reference if isinstance(folder, AdapterFolder) else ""
    whole = Checkpoint(**{"reference": reference, "files": files, "states": states, **given})
    plan = dict(changes.get("plan", {}))
    plan["arguments"] = {**_ARGUMENTS, **plan.get("arguments", {})}
    plan["told"] = frozenset(plan.get("told", ()))
    facts = facts.adding(
        whole,
        ResumePlan(**{"optimizer": plan["arguments"]["optim"], **plan}),
        TrainerState(
            {"global_step": STEP, "max_steps": 600, "train_batch_size": 4, "epoch": 1.5, **changes.get("trainer", {})}
        ),
    )
    config, base, modules = (facts.get(kind) for kind in (AdapterConfig, BaseConfig, BaseModules))
    here = _trainables(config, base, modules, facts.get(Fit))
    if isinstance(here, TrainableParameters):
        here = _edited(here, changes.get("trainable", {}))
    facts = facts.lacking(here, TrainableParameters) if isinstance(here, Missing) else facts.adding(here)
    if not whole.state(OPTIMIZER).ok or (whole.writer == "fsdp"):
        why = Missing("there is no optimizer state to judge", waived=True)
        return facts.lacking(why, OptimizerState, OptimizerValues, SchedulerState)
    then = _trainables(*trained, None)
    if isinstance(then, Missing):
        return facts.lacking(then, OptimizerState, OptimizerValues).adding(_scheduler(changes, 2))
    state = _optimizer(then, changes.get("optimizer", {}))
    moments = {name: tuple(map(_pair, value)) for name, value in changes.get("moments", {}).items()}
    facts = facts.adding(state, OptimizerValues(**moments))
    if not whole.state("scheduler.pt").ok:
        return facts.lacking(Missing("there is no usable scheduler.pt", waived=True), SchedulerState)
    return facts.adding(_scheduler(changes, len(state.groups)))


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _scheduler(changes: Mapping[str, Any], groups: int) -> SchedulerState:
    given = changes.get("scheduler", {})
    return SchedulerState({"base_lrs": [0.0001] * groups, "last_epoch": STEP, **given} if given != "empty" else {})


def _trainables(config: Any, base: Any, modules: Any, fit: Any) -> TrainableParameters | Missing:
    for fact in (config, base, modules):
        if isinstance(fact, Missing):
            return Missing("the case says so")
    if not isinstance(fit, Fit):
        fit = foretell(config, AdapterTensors("", {}), modules, base.model_type)
    if isinstance(fit, Missing):
        return fit
    return foretell_trainables(config, modules, fit)


def _edited(found: TrainableParameters, edits: Mapping[str, Any]) -> TrainableParameters:
    parameters = found.parameters
    for way in ("drop", "keyless"):
        pattern = edits.get(way)
        if pattern is None:
            continue
        hit = [one for one in parameters if re.search(pattern, one.name)]
        if not hit:
            raise ValueError(f"trainable: nothing matches {pattern!r}")
        if way == "drop":
            parameters = tuple(one for one in parameters if one not in hit)
        else:
            parameters = tuple(replace(one, key="") if one in hit else one for one in parameters)
    return TrainableParameters(edits.get("origin", "measured"), parameters, edits.get("ordered", True))


def _optimizer(trained: TrainableParameters, edits: Mapping[str, Any]) -> OptimizerState:
    dtype = edits.get("dtype", "F32")
    split = split_of(edits.get("sizes", ()), trained)
    shapes = [one.shape for one in (split[1] if split else trained.order) if one is not None] + [
        tuple(shape) for shape in edits.get("more", ())
    ]
    moments: dict[int | str, Moments] = {}
    for number, shape in enumerate(shapes):
        shape = tuple(edits.get("shapes", {}).get(str(number), shape))
        kept = edits.get("kept", ("step", "exp_avg", "exp_avg_sq"))
        moments[number] = Moments({name: TensorInfo("F32" if name == "step" else dtype, () if name == "step" else shape)
                                   for name in kept})  # fmt: skip
    for number in edits.get("forgotten", ()):
        del moments[number]
    for one, other in edits.get("swapped", ()):
        moments[one], moments[other] = moments[other], moments[one]
    options = {**_OPTIONS, **edits.get("options", {})}
    for name in edits.get("lacking", ()):
        del options[name]
    sizes = edits.get("sizes", [len(trained.groups[0]) + len(edits.get("more", ())), len(trained.groups[1])])
    names = edits.get("names", ())
    names = [one.name for one in trained.order] if names == "own" else names
    groups, at = [], 0
    for size in sizes:
        groups.append(ParameterGroup(tuple(range(at, at + size)), options, tuple(names[at : at + size])))
        at += size
    return OptimizerState(
        OPTIMIZER, tuple(groups), moments, tuple(edits.get("extra", ())), tuple(edits.get("absent", ())),
        edits.get("inside", ""), tuple(map(float, edits.get("steps", [STEP]))),
    )  # fmt: skip
