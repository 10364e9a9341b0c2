"""Open the adapter as it came: from which files its tensors and its config are to be had."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import replace

from adapter_doctor.facts import AdapterConfig, AdapterTensors, Facts, FileState, Missing, TensorInfo, WeightsFiles
from adapter_doctor.formats import bounded_json, safetensors_header, torch_pickle
from adapter_doctor.formats.foreign import format_of_keys
from adapter_doctor.gather.adapter import PICKLE, SAFETENSORS, read_listing, read_safetensors
from adapter_doctor.gather.values import scalar
from adapter_doctor.repair.plan import CannotMend, Draft, Step
from adapter_doctor.repair.recipes import Kept, Permuted, Recipe
from adapter_doctor.sources import Source, Unreachable

_BESIDE = ("params.json",)
MAX_BESIDE, MOST_SCALARS = 1_000_000, 20_000
SHARD = re.compile(r"^adapter_model[-_.](\d+)[-_]of[-_](\d+)\.(safetensors|bin)$")


def opened(source: Source, facts: Facts) -> Draft:
    """The draft that holds the adapter unchanged, but for the files that its tensors lie in.

    Raises:
        CannotMend: the tensors or the config cannot be had; the message says why.
    """
    config, tensors, weights = facts.get(AdapterConfig), facts.get(AdapterTensors), facts.get(WeightsFiles)
    known = isinstance(config, AdapterConfig)
    raw = config if isinstance(config, AdapterConfig) else AdapterConfig({})
    if isinstance(tensors, AdapterTensors):
        if not known and format_of_keys(tensors) is None:
            raise CannotMend(f"{config.why}, and what it says (lora_alpha above all) cannot be told from tensors")  # type: ignore[union-attr]
        step = Step("AD205", f"write {PICKLE} as {SAFETENSORS}, without unpickling")
        draft = draft_of(raw, tensors.tensors, tensors.metadata, *([step] if tensors.file == PICKLE else []))
        return with_more(source, draft)
    others = weights.others if isinstance(weights, WeightsFiles) and weights.chosen is None else ()
    shards = [one for one in others if SHARD.match(one.name)]
    if shards and known:
        return _joined(source, raw, shards)
    if others:
        found, metadata = read_weights(source, _newest(others))
        if format_of_keys(found) is None:
            raise CannotMend(f"{_newest(others).name} is in no format that is known here")
        return with_more(source, draft_of(raw, found, metadata))
    raise CannotMend(config.why if isinstance(config, Missing) else tensors.why)


def _newest(files: tuple[FileState, ...]) -> FileState:
    """The weight file to take: the one of the highest number, as `adapter_3.pt` after `adapter_2.pt`."""
    return max(files, key=lambda one: ([int(number) for number in re.findall(r"\d{1,9}", one.name)], one.size))


def with_more(source: Source, draft: Draft) -> Draft:
    """The draft with what other libraries keep in a file beside the tensors, or in tensors with one element."""
    beside = {}
    for name in _BESIDE:
        if source.files().get(name, MAX_BESIDE + 1) <= MAX_BESIDE:
            with contextlib.suppress(bounded_json.BadJson, Unreachable):
                beside[name] = bounded_json.parse_object(source.read(name, 0, MAX_BESIDE + 1))
    small = [(name, info) for name, info in draft.original.items() if info.count == 1 and name.endswith("alpha")]
    scalars = {}
    for name, info in small[:MOST_SCALARS]:
        with contextlib.suppress(Unreachable, ValueError):
            scalars[name] = scalar(source.fetch_all([info.file])[info.file], info)
    return replace(draft, beside=beside, scalars=scalars)


def draft_of(
    config: AdapterConfig, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str], *steps: Step
) -> Draft:
    """A draft of these tensors as they lie in their files.

    Raises:
        CannotMend: the bytes of a tensor are not known.
    """
    lost = [name for name, info in tensors.items() if info.count and not info.start]
    if lost:
        raise CannotMend(
            f"the values of {len(lost)} tensors are not to be had without unpickling, such as {lost[0]!r}: load the"
            " file with torch.load(weights_only=True) and save its tensors, made contiguous, with safetensors"
        )
    recipes = {name: _straight(info) for name, info in tensors.items()}
    return Draft(config.raw, recipes, tensors, metadata, steps=steps)


def _straight(info: TensorInfo) -> Recipe:
    """The tensor in the order of its own axes; a torch file may hold a transposed tensor as it lay in memory."""
    if not info.axes:
        return Kept(info)
    stored = tuple(info.shape[axis] for axis in info.axes)
    back = tuple(info.axes.index(axis) for axis in range(len(info.axes)))
    plain = TensorInfo(info.dtype, stored, info.start, info.end, info.file)
    return Permuted(Kept(plain), stored, back, info.shape)


def _joined(source: Source, config: AdapterConfig, shards: list[FileState]) -> Draft:
    """All shards as one file.

    Raises:
        CannotMend: a shard is missing or broken, or two differ about a tensor.
    """
    numbers = {(int(match[1]), int(match[2])) for one in shards if (match := SHARD.match(one.name))}
    count = max(total for _, total in numbers)
    if len(numbers) < count:
        raise CannotMend(f"{len(numbers)} of {count} shards are there: the others hold the rest of the adapter")
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    for shard in shards:
        found, more = read_weights(source, shard)
        twice = sorted(found.keys() & tensors.keys())
        if twice:
            raise CannotMend(f"{len(twice)} tensors are in more than one shard, such as {twice[0]!r}")
        tensors |= found
        metadata |= more
    return draft_of(config, tensors, metadata, Step("AD207", f"join {len(shards)} shards in one {SAFETENSORS}"))


def read_weights(source: Source, file: FileState) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Tensors and metadata of one weight file, safetensors or torch's.

    Raises:
        CannotMend: it cannot be read, or is a pickle that names more than tensors.
    """
    try:
        if file.name.endswith(".safetensors"):
            read = read_safetensors(source, file.size, file.name)
            return dict(read.tensors), dict(read.metadata)
        listing = read_listing(source, file.size, file.name)
    except (safetensors_header.BadHeader, torch_pickle.BadPickle, Unreachable) as trouble:
        raise CannotMend(f"{file.name} cannot be read: {trouble}") from None
    if listing.unexpected:
        raise CannotMend(
            f"{file.name} is a pickle that names {listing.unexpected[0]}, which is no tensor; it is not opened"
        )
    return dict(listing.tensors()), {}
