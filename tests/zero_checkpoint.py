"""Checkpoints as the Trainer saves them under DeepSpeed's ZeRO, made of one that it saved by itself.

Folders, names and structure are those that DeepSpeed 0.19.8 wrote for two processes on CPUs (gloo, torch's AdamW),
with stages 1, 2 and 3; keys that nobody reads here are left out. DeepSpeed itself is not needed: its classes in these
files stand under their names.
"""

from __future__ import annotations

import contextlib
import enum
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bitsandbytes_state import OPTIONS, WRAPPED

FOLDER = "global_step3"


def write_zero(
    place: Path, names: Sequence[str], stage: int = 2, world: int = 2, *, bf16: bool = False, wrapped: bool = False
) -> None:
    """Turn the Trainer's checkpoint in ``place`` into one of ``world`` processes; ``names`` are those of what trains.

    ``wrapped`` makes the optimizer bitsandbytes' AdamW. Stage 0 is DeepSpeed without ZeRO, which keeps the state whole.
    """
    import torch

    saved = torch.load(place / "optimizer.pt", weights_only=True)
    (place / "optimizer.pt").unlink()
    (place / "rng_state.pth").rename(place / "rng_state_0.pth")
    for rank in range(1, world):
        (place / f"rng_state_{rank}.pth").write_bytes((place / "rng_state_0.pth").read_bytes())
    # Groups without parameters are left out, and the schedule is made for those that remain.
    groups = [group for group in saved["param_groups"] if group["params"]]
    schedule = torch.load(place / "scheduler.pt", weights_only=True)
    lists = {name: value[: len(groups)] for name, value in schedule.items() if isinstance(value, list)}
    torch.save({**schedule, **lists}, place / "scheduler.pt")
    (place / FOLDER).mkdir()
    (place / "latest").write_text(FOLDER)
    for name in ("zero_to_fp32.py", "zero_to_torch.py"):
        (place / name).write_text("#!/usr/bin/env python\n")
    with _classes() as (scaler, stages):
        for rank in range(world if stage else 0):
            inner: dict[str, Any] = {"state": {}, "param_groups": []}
            for number, group in enumerate(groups):
                flat = {key: _part(saved, group, key, stage, rank, world) for key in ("exp_avg", "exp_avg_sq")}
                inner["state"][number] = {"step": saved["state"][group["params"][0]]["step"], **flat}
                inner["param_groups"].append({**group, "params": [number]})
            weights = [kept["exp_avg"].clone() for kept in inner["state"].values()]
            if wrapped:
                for kept in inner["state"].values():
                    kept |= {"step": 3, WRAPPED: {"state1": kept.pop("exp_avg"), "state2": kept.pop("exp_avg_sq")}}
                inner["param_groups"] = [{**OPTIONS["adamw"], "params": one["params"]} for one in inner["param_groups"]]
            common = {
                "loss_scaler": scaler(),
                "dynamic_loss_scale": False,
                "overflow": False,
                "zero_stage": stages(stage),
            }
            own = (
                {"partition_count": world, "optimizer_state_dict": inner, "fp32_flat_groups": weights}
                if stage == 3
                else {
                    "clip_grad": 1.0, "base_optimizer_state": inner, "single_partition_of_fp32_groups": weights,
                    "group_paddings": [0] * len(groups), "partition_count": [world] * len(groups), "ds_version": "0.19.8",
                }
            )  # fmt: skip
            value = {"optimizer_state_dict": {**common, **own}, "ds_config": {}, "ds_version": "0.19.8"}
            prefix = "bf16_" if bf16 else ""
            torch.save(value, place / FOLDER / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        for rank in range(world if stage == 3 else 1):
            model: dict[str, Any] = {
                "module": {}, "buffer_names": [], "optimizer": None if stage else {**saved, "param_groups": groups}, "lr_scheduler": None, "param_shapes": _shapes(saved, groups, names),
                "global_steps": 3, "dp_world_size": world, "mp_world_size": 1, "ds_config": {}, "ds_version": "0.19.8",
            }  # fmt: skip
            whose = f"zero_pp_rank_{rank}_" if stage == 3 else ""
            torch.save(model, place / FOLDER / f"{whose}mp_rank_00_model_states.pt")


def _part(saved: Any, group: Any, key: str, stage: int, rank: int, world: int) -> Any:
    """The part of a group's moments that one process keeps."""
    import torch

    each = [saved["state"][one][key].reshape(-1) for one in group["params"]]
    if stage < 3:
        whole = torch.cat(each)
        size = -(-len(whole) // (2 * world)) * 2  # parts begin at a multiple of two elements
        return torch.nn.functional.pad(whole, (0, size * world - len(whole)))[rank * size : (rank + 1) * size].clone()
    parts = [torch.nn.functional.pad(one, (0, -len(one) % world)).chunk(world)[rank] for one in each]
    return torch.cat(parts)


def _shapes(saved: Any, groups: Sequence[Any], names: Sequence[str]) -> list[Any]:
    ids = [one for group in saved["param_groups"] for one in group["params"]]
    named = dict(zip(ids, names, strict=True))
    return [
        OrderedDict((named[one], saved["state"][one]["exp_avg"].shape) for one in group["params"]) for group in groups
    ]


@contextlib.contextmanager
def _classes() -> Iterator[tuple[Any, Any]]:
    """Classes that are saved under the names of DeepSpeed's."""

    class LossScaler:
        def __init__(self) -> None:
            self.cur_scale, self.dynamic = 1.0, False

    ZeroStageEnum = enum.IntEnum("ZeroStageEnum", {"optimizer_states": 1, "gradients": 2, "weights": 3})  # noqa: N806
    modules: dict[str, types.ModuleType] = {}
    for one, where in ((LossScaler, "fp16.loss_scaler"), (ZeroStageEnum, "zero.config")):
        name = f"deepspeed.runtime.{where}"
        for at in range(1, name.count(".") + 2):
            parent = ".".join(name.split(".")[:at])
            modules.setdefault(parent, types.ModuleType(parent))
        one.__module__, one.__qualname__ = name, one.__name__
        setattr(modules[name], one.__name__, one)
    with patch.dict(sys.modules, modules):
        yield LossScaler, ZeroStageEnum
