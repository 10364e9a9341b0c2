"""Gather the facts of a base model: its folder, config, and the names and shapes in its weight files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from adapter_doctor.facts import BaseCheckpoint, BaseConfig, BaseFolder, Facts, Missing, Shape, TensorInfo
from adapter_doctor.formats import bounded_json, safetensors_header
from adapter_doctor.formats.packed_weights import quant_states, shape_in
from adapter_doctor.formats.shard_index import complete, telling_shards
from adapter_doctor.sources import Source, Unreachable

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARDS = 2_000
MAX_REMOTE_SHARDS = 40
"""Headers that are asked for over the network where a few of them do not tell the rest."""
MAX_INDEX_BYTES = 100_000_000
MOST_QUANT_STATE = 4_096
"""Bytes; bitsandbytes writes about 170."""
_SHARD = re.compile(r"^[\w.-]+\.safetensors$")


def gather_base(source: Source, facts: Facts, *, given: bool = True, weights: bool = True) -> Facts:
    """``facts`` with what the base's files tell.

    ``given`` is False where the adapter's config named the base; ``weights`` where the headers of its weight files are
    wanted, each of which costs a request on the Hub; else BaseCheckpoint is left out.
    """
    try:
        files = source.files()
    except Unreachable as trouble:
        if trouble.temporary:
            return facts.lacking(Missing(trouble.why), BaseFolder, BaseConfig, BaseCheckpoint)
        facts = facts.adding(BaseFolder(source.reference, False, trouble.why, trouble.reason, given))
        return facts.lacking(Missing(f"the base could not be read: {trouble.why}"), BaseConfig, BaseCheckpoint)
    if CONFIG not in files and not source.complete:
        return facts.lacking(
            Missing(f"{CONFIG} of the base is not in the cache"), BaseFolder, BaseConfig, BaseCheckpoint
        )
    nested = _adapter_base(source) if ADAPTER_CONFIG in files else None
    facts = facts.adding(BaseFolder(source.reference, True, "", "", given, nested, source.revision, files))
    try:
        facts = _gather_config(source, facts)
    except Unreachable as trouble:  # a gated repository can be listed and not read
        facts = facts.adding(BaseFolder(source.reference, False, trouble.why, trouble.reason, given))
        return facts.lacking(Missing(f"the base could not be read: {trouble.why}"), BaseConfig, BaseCheckpoint)
    return gather_checkpoint(source, facts) if weights else facts


def _adapter_base(source: Source) -> str:
    """The base that an adapter's config in this folder names; empty where it cannot be read."""
    try:
        raw = bounded_json.parse_object(source.read(ADAPTER_CONFIG, 0, bounded_json.MAX_BYTES + 1))
    except (bounded_json.BadJson, Unreachable):
        return ""
    name = raw.get("base_model_name_or_path")
    return name if isinstance(name, str) else ""


def _gather_config(source: Source, facts: Facts) -> Facts:
    try:
        raw = bounded_json.parse_object(source.read(CONFIG, 0, bounded_json.MAX_BYTES + 1))
    except bounded_json.BadJson as trouble:
        return facts.lacking(Missing(f"the base's {CONFIG} {trouble}"), BaseConfig)
    except Unreachable as trouble:
        if trouble.reason in ("gated", "denied"):
            raise
        return facts.lacking(Missing(f"the base's {CONFIG} cannot be read: {trouble.why}"), BaseConfig)
    return facts.adding(BaseConfig(raw))


def gather_checkpoint(source: Source, facts: Facts) -> Facts:
    """``facts``, to which :func:`gather_base` has added, with the names and shapes in the base's weight files."""
    if isinstance(facts.get(BaseConfig), Missing):
        return facts
    try:
        tensors = _tensors(source, source.files())
    except Unreachable as trouble:
        return facts.lacking(Missing(f"the base's weights: {trouble.why}"), BaseCheckpoint)
    except (safetensors_header.BadHeader, bounded_json.BadJson, _ShardMissing) as trouble:
        folder = facts.get(BaseFolder)
        # A pointer is what a clone without the large files has in their place: they are not here, and not damaged.
        if isinstance(folder, BaseFolder) and getattr(trouble, "state", "") != "pointer":
            facts = facts.adding(replace(folder, damage=str(trouble)))
        return facts.lacking(Missing(f"the base's weights: {trouble}"), BaseCheckpoint)
    return facts.adding(BaseCheckpoint(tensors, _packed(source, tensors)))


def _packed(source: Source, tensors: Mapping[str, TensorInfo]) -> dict[str, Shape]:
    """What 4-bit weights stand for, from the small tensors beside them; not over a network, where each is a request."""
    found = {}
    for weight, name in quant_states({name: info.shape for name, info in tensors.items()}).items():
        info = tensors[name]
        if source.revision is not None or not 0 < info.end - info.start <= MOST_QUANT_STATE:
            continue
        try:
            shape = shape_in(source.read(info.file, info.start, info.end - info.start))
        except Unreachable:
            continue
        if shape is not None:
            found[weight] = shape
    return found


class _ShardMissing(Exception):
    """Some shards that the index names are there, and some are not: a download that was cut short."""


def _tensors(source: Source, files: Mapping[str, int]) -> dict[str, TensorInfo]:
    if WEIGHTS in files:
        return dict(read_header(source, WEIGHTS, files[WEIGHTS]).tensors)
    if INDEX not in files:
        others = [name for name in files if name.endswith((".bin", ".pt", ".gguf", ".h5", ".msgpack"))]
        raise Unreachable(f"only {others[0]} is there" if others else "there are none beside the config")
    try:
        index = bounded_json.parse_object(source.read(INDEX, 0, MAX_INDEX_BYTES + 1), MAX_INDEX_BYTES)
    except bounded_json.BadJson as trouble:
        raise bounded_json.BadJson(f"{INDEX} {trouble}") from None
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise Unreachable(f"{INDEX} has no weight_map")
    shards = sorted({shard for shard in weight_map.values() if isinstance(shard, str)})
    if not shards:
        raise Unreachable(f"{INDEX} names no shard")
    if len(shards) > MAX_SHARDS:
        raise Unreachable(f"{INDEX} names {len(shards):,} shards")
    absent = [shard for shard in shards if not _SHARD.match(shard) or shard not in files]
    if absent:
        text = f"{len(absent)} of {len(shards)} shards that {INDEX} names are not there, {absent[0][:100]!r} among them"
        raise Unreachable(text) if len(absent) == len(shards) or not source.complete else _ShardMissing(text)
    if source.revision is None:
        return _read_headers(source, shards, files)
    few = telling_shards(weight_map)
    source.prepare(*few)
    whole = complete(_read_headers(source, few, files), index)
    if whole is not None:
        return whole
    if len(shards) > MAX_REMOTE_SHARDS:
        raise Unreachable(
            f"its layers differ, and {len(shards)} shards on the Hub are too many to ask; "
            "one check with --load skeleton will do"
        )
    source.prepare(*shards)
    return _read_headers(source, shards, files)


def _read_headers(source: Source, shards: Iterable[str], files: Mapping[str, int]) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for shard in shards:
        found.update(read_header(source, shard, files[shard]).tensors)
    return found


def read_header(source: Source, name: str, size: int) -> safetensors_header.Header:
    """The header of one safetensors file.

    Raises:
        Unreachable: the file cannot be read.
        BadHeader: it is no usable safetensors file.
    """
    try:
        length = safetensors_header.header_length(source.read(name, 0, 64), size)
        return safetensors_header.parse_header(source.read(name, 8, length), size, name)
    except safetensors_header.BadHeader as trouble:
        raise safetensors_header.BadHeader(trouble.state, f"{name}: {trouble}") from None
