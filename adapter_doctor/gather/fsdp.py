"""Gather what FSDP left in a checkpoint: its distributed files, whether they are whole, and what they say they hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from adapter_doctor.facts import FileState, Missing, MomentsPart, OptimizerState, Shards, TensorInfo
from adapter_doctor.formats.distributed_checkpoint import (
    METADATA,
    Distributed,
    NoMetadata,
    optimizer_in,
    read_metadata,
)
from adapter_doctor.formats.optimizer_state import STATE
from adapter_doctor.sources import Source

MODEL, OPTIMIZER, WHOLE = "pytorch_model_fsdp_0", "optimizer_0", "pytorch_model_fsdp.bin"
_OWN = re.compile(r"torch\.distributed\.checkpoint\.(metadata\.\w+|filesystem\._StorageInfo)|pathlib\.\w+Path")
"""What the metadata names; torch unpickles it in full, so that anything else would run."""

Open = Callable[[Source, str, re.Pattern[str]], tuple[FileState, Any]]


def gather_whole(source: Source, files: Mapping[str, int], opened: Open) -> Shards:
    """Whether the model's one file (`FULL_STATE_DICT`) can be read, and holds anything; it tells no number of processes."""
    state, value = opened(source, WHOLE, _OWN) if WHOLE in files else (None, {"": None})
    if state is not None and not state.ok and state.state != "too-large":
        return Shards("", 0, broken=((WHOLE, state.detail),))
    return Shards("", 0, empty=WHOLE if isinstance(value, dict) and not value else "")


def distributed(files: Mapping[str, int]) -> bool:
    """Whether the state was saved in parts (`SHARDED_STATE_DICT`), not whole."""
    return any(name.startswith((f"{MODEL}/", f"{OPTIMIZER}/")) for name in files)


def gather_fsdp(source: Source, files: Mapping[str, int], opened: Open) -> tuple[Shards, OptimizerState | Missing]:
    """The distributed files of model and optimizer, and the state that the latter say they hold."""
    lost: list[str] = []
    broken: list[tuple[str, str]] = []
    found: dict[str, Distributed] = {}
    for folder in (MODEL, OPTIMIZER):
        name = f"{folder}/{METADATA}"
        if name not in files:
            alone = folder == MODEL and not any("adapter_model." in one for one in files)
            if alone or any(one.startswith(f"{folder}/") for one in files):
                lost.append(name)
            continue
        state, value = opened(source, name, _OWN)
        if state.state == "too-large":  # of very many processes; nothing is known against it
            return Shards("", 0, tuple(lost), tuple(broken)), Missing(f"{name} is not read: {state.detail}")
        try:
            found[folder] = read_metadata(value)
        except NoMetadata:
            broken.append((name, state.detail or "it is not the metadata of a distributed checkpoint"))
            continue
        for part, length in found[folder].files.items():
            size = files.get(f"{folder}/{part}")
            if size is None:
                lost.append(f"{folder}/{part}")
            elif size < length:
                broken.append((f"{folder}/{part}", f"it is {size:,} bytes, and the metadata has {length:,} in it"))
    empty = f"{MODEL}/{METADATA}" if MODEL in found and not found[MODEL].tensors else ""
    world = len({part.rpartition("_")[0] for one in found.values() for part in one.files})  # __PROCESS_NUMBER.distcp
    shards = Shards("", world, tuple(lost), tuple(broken), empty, packed=True)
    if OPTIMIZER not in found:
        return shards, Missing("the optimizer's shards have no metadata that can be read", waived=True)
    parts = tuple(
        MomentsPart(path[2], path[3], TensorInfo("", (), start, end, f"{OPTIMIZER}/{file}"))
        for path, file, start, end in found[OPTIMIZER].places
        if len(path) == 4 and path[1] == STATE
    )
    return replace(shards, parts=() if lost or broken else parts), optimizer_in(found[OPTIMIZER], OPTIMIZER)
