"""Read the `.metadata` of a checkpoint that torch.distributed.checkpoint saved: tensors by their path, and their files.

As torch 2.13 writes it (torch/distributed/checkpoint/metadata.py, filesystem.py), from the listing of its pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter_doctor.facts import Missing, Moments, OptimizerState, ParameterGroup, TensorInfo
from adapter_doctor.formats.optimizer_state import GROUPS, MOST, STATE, saved_shape
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
        shape = saved_shape(size)
        if shape is not None:
            tensors[_path(name, paths)] = TensorInfo(_dtype(_fields(entry).get("properties")), shape)
        else:
            others.append(_path(name, paths))
    files: dict[str, int] = {}
    places = []
    stored = fields.get("storage_data")
    for index, place in stored.items() if isinstance(stored, dict) else ():
        file, start, length = (_fields(place).get(key) for key in ("relative_path", "offset", "length"))
        if isinstance(file, str) and type(start) is int and type(length) is int:
            if not (0 <= start < MOST and 0 <= length < MOST):
                raise NoMetadata
            files[file] = max(files.get(file, 0), start + length)
            places.append((_path(_fields(index).get("fqn"), paths), file, start, start + length))
    return Distributed(tensors, tuple(others), files, tuple(places))


def _path(name: Any, paths: Any) -> tuple[str, ...]:
    """The keys that lead to a value in the saved dict; its flat name where they are no plain ones."""
    name = name if isinstance(name, str) else ""
    path = paths.get(name) if isinstance(paths, dict) else None
    if not isinstance(path, tuple):
        return (name,)
    plain = all(type(one) is str or (type(one) is int and -MOST < one < MOST) for one in path)
    return tuple(map(str, path)) if plain else (name,)


def optimizer_in(found: Distributed, file: str) -> OptimizerState | Missing:
    """The optimizer's state in it, whose parameters go by their names; nothing is left to judge where none has moments.

    Of its groups only the number is in the metadata: all parameters are given to the first, and no options.
    """
    tensors: dict[str, dict[str, TensorInfo]] = {}
    for path, info in found.tensors.items():
        if len(path) == 4 and path[1] == STATE:
            tensors.setdefault(path[2], {})[path[3]] = info
    if not tensors:  # as of SGD without momentum
        options = {path[3] for path in found.others if len(path) == 4 and path[1] == GROUPS}
        other = any(path[1:2] != (GROUPS,) for path in found.tensors)
        return Missing("the optimizer's shards hold no moments", waived=not other and "betas" not in options)
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
