"""Read the `.metadata` of a checkpoint that torch.distributed.checkpoint saved: tensors by their path, and their files.

As torch 2.13 writes it (torch/distributed/checkpoint/metadata.py, filesystem.py), from the listing of its pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter_doctor.facts import Moments, OptimizerState, ParameterGroup, TensorInfo
from adapter_doctor.formats.optimizer_state import GROUPS, STATE
from adapter_doctor.formats.torch_dtypes import DTYPES
from adapter_doctor.formats.torch_pickle import Opaque

METADATA = ".metadata"


class NoMetadata(ValueError):
    """The file is something else."""


@dataclass(frozen=True, slots=True)
class Distributed:
    """What a distributed checkpoint holds: tensors and other values by their path in the saved dict; the length of each file.

    ``places`` are where each part of them lies: path, file, begin and end. There stands a file of torch's with that alone.
    """

    tensors: Mapping[tuple[str, ...], TensorInfo]
    others: tuple[tuple[str, ...], ...]
    files: Mapping[str, int]
    places: tuple[tuple[tuple[str, ...], str, int, int], ...]


def read_metadata(value: Any) -> Distributed:
    """The contents by the listing's outermost value.

    Raises:
        NoMetadata: it is no such file.
    """
    fields = _fields(value)
    entries, paths = fields.get("state_dict_metadata"), fields.get("planner_data")
    if not isinstance(entries, dict):
        raise NoMetadata
    tensors: dict[tuple[str, ...], TensorInfo] = {}
    others = []
    for name, entry in entries.items():
        size = _fields(entry).get("size")
        shape = size.arguments[0] if isinstance(size, Opaque) and size.arguments else None
        if isinstance(shape, tuple) and all(type(one) is int and one >= 0 for one in shape):
            tensors[_path(name, paths)] = TensorInfo(_dtype(_fields(entry).get("properties")), shape)
        else:
            others.append(_path(name, paths))
    files: dict[str, int] = {}
    places = []
    stored = fields.get("storage_data")
    for index, place in stored.items() if isinstance(stored, dict) else ():
        file, start, length = (_fields(place).get(key) for key in ("relative_path", "offset", "length"))
        if isinstance(file, str) and isinstance(start, int) and isinstance(length, int):
            files[file] = max(files.get(file, 0), start + length)
            places.append((_path(_fields(index).get("fqn"), paths), file, start, start + length))
    return Distributed(tensors, tuple(others), files, tuple(places))


def _path(name: Any, paths: Any) -> tuple[str, ...]:
    path = paths.get(name) if isinstance(paths, dict) and isinstance(name, str) else None
    return tuple(map(str, path)) if isinstance(path, tuple) else (str(name),)


def optimizer_in(found: Distributed, file: str) -> OptimizerState:
    """The optimizer's state in it, whose parameters go by their names.

    Of its groups only the number is in the metadata: all parameters are given to the first, and no options.
    """
    tensors: dict[str, dict[str, TensorInfo]] = {}
    for path, info in found.tensors.items():
        if len(path) == 4 and path[1] == STATE:
            tensors.setdefault(path[2], {})[path[3]] = info
    moments: dict[int | str, Moments] = {name: Moments(kept) for name, kept in tensors.items()}
    groups = {path[2] for path in found.others if len(path) == 4 and path[1] == GROUPS}
    rest = (ParameterGroup(()),) * (len(groups) - 1)
    return OptimizerState(file, (ParameterGroup(tuple(moments)), *rest), moments)


def _fields(value: Any) -> Mapping[Any, Any]:
    return value.state if isinstance(value, Opaque) else {}


def _dtype(properties: Any) -> str:
    """The dtype, which comes first of a tensor's properties."""
    first = properties.arguments[0] if isinstance(properties, Opaque) and properties.arguments else None
    name = first.name.rpartition(".")[2] if isinstance(first, Opaque) else ""
    return DTYPES.get(name, (name, 0))[0]
