"""What the index of a sharded checkpoint and the headers of a few shards tell of the other shards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adapter_doctor.facts import TensorInfo
from adapter_doctor.formats.safetensors_header import BITS

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def telling_shards(weight_map: Mapping[str, Any]) -> list[str]:
    """As few shards as hold a tensor of each kind: names that differ only in the numbers of layers are one kind."""
    kinds: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        if isinstance(shard, str):
            kinds.setdefault(shard, set()).add(_kind(name))
    wanted, chosen = set[str]().union(*kinds.values()), []
    while wanted:
        shard = max(sorted(kinds), key=lambda one: len(kinds[one] & wanted))
        chosen.append(shard)
        wanted -= kinds[shard]
    return chosen


def complete(read: Mapping[str, TensorInfo], index: Mapping[str, Any]) -> dict[str, TensorInfo] | None:
    """All tensors that the index names, those of shards that were not read like the read ones of their kind.

    None unless every kind has one shape and the bytes of all come to the index's own ``total_size``. The byte ranges of
    tensors that were not read are empty.
    """
    weight_map, metadata = index["weight_map"], index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    kinds: dict[str, TensorInfo] = {}
    for name, info in read.items():
        like = kinds.setdefault(_kind(name), info)
        if (like.dtype, like.shape) != (info.dtype, info.shape):
            return None
    found: dict[str, TensorInfo] = {}
    for name, shard in weight_map.items():
        like = kinds[_kind(name)]
        found[name] = read.get(name) or TensorInfo(like.dtype, like.shape, 0, 0, str(shard))
    size = sum(info.count * BITS[info.dtype] // 8 for info in found.values())
    return found if size == total else None


def _kind(name: str) -> str:
    return _NUMBER.sub("*", name)
