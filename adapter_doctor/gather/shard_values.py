"""Gather which moments are not finite where an engine kept them in shards, which torch would not load with weights_only."""

from __future__ import annotations

import io
from dataclasses import replace

from adapter_doctor.facts import AdapterTensors, Missing, MomentsPart, OptimizerValues, Shards, TensorInfo
from adapter_doctor.formats import torch_pickle
from adapter_doctor.gather.values import gather_values
from adapter_doctor.sources import Source, Unreachable

MOST = 1 << 30
"""Bytes of one packed part that are read to find its values."""


def gather_shard_values(source: Source, shards: Shards) -> OptimizerValues | Missing:
    """The parameters whose moments are not finite, by the parts of them in each process's file."""
    files: dict[str, list[MomentsPart]] = {}
    for part in shards.parts:
        files.setdefault(part.info.file, []).append(part)
    bad: dict[int | str, None] = {}
    for name, parts in files.items():
        path = source.path(name)
        if path is None:
            return Missing("the checkpoint is on the Hub; download it to have the values of its moments read")
        try:
            found = {
                str(at): _unpacked(source, one.info) if shards.packed else one.info for at, one in enumerate(parts)
            }
            summaries = gather_values(path, AdapterTensors(name, found)).summaries
        except (OSError, Unreachable, torch_pickle.BadPickle) as error:
            return Missing(f"{name} cannot be read: {error}")
        if len(summaries) < len(parts):
            return Missing(f"{name} holds moments in a form that is not read here")
        bad.update({parts[int(at)].parameter: None for at, one in summaries.items() if one.nan or one.infinite})
    return OptimizerValues(tuple(sorted(bad, key=str)))


def _unpacked(source: Source, place: TensorInfo) -> TensorInfo:
    """Where the numbers of the one tensor lie that a file of torch's holds which stands in another file."""
    size = place.end - place.start
    if size > MOST:
        raise torch_pickle.BadPickle("too-large", f"a part of it takes {size:,} bytes")
    inner = torch_pickle.read_listing(io.BytesIO(source.read(place.file, place.start, size)), size, place.file).value
    if not isinstance(inner, TensorInfo) or not inner.start:
        raise torch_pickle.BadPickle("unreadable", "a part of it is no tensor")
    return replace(inner, start=inner.start + place.start, end=inner.end + place.start)
