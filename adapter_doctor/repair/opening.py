"""Open the adapter as it came: from which files its tensors and its config are to be had."""

from __future__ import annotations

import re
from collections.abc import Mapping

from adapter_doctor.facts import AdapterConfig, AdapterTensors, Facts, FileState, Missing, TensorInfo, WeightsFiles
from adapter_doctor.formats import safetensors_header, torch_pickle
from adapter_doctor.gather.adapter import PICKLE, SAFETENSORS, read_listing, read_safetensors
from adapter_doctor.repair.plan import CannotMend, Draft, Step
from adapter_doctor.repair.recipes import Kept, Permuted, Recipe
from adapter_doctor.sources import Source, Unreachable

SHARD = re.compile(r"^adapter_model[-_.](\d+)[-_]of[-_](\d+)\.(safetensors|bin)$")


def opened(source: Source, facts: Facts) -> Draft:
    """The draft that holds the adapter unchanged, but for the files that its tensors lie in.

    Raises:
        CannotMend: the tensors or the config cannot be had; the message says why.
    """
    config, tensors, weights = facts.get(AdapterConfig), facts.get(AdapterTensors), facts.get(WeightsFiles)
    if isinstance(config, Missing):
        raise CannotMend(f"{config.why}, and what it says (lora_alpha above all) cannot be told from tensors")
    if isinstance(tensors, AdapterTensors):
        steps = []
        if tensors.file == PICKLE:
            steps.append(Step("AD205", f"write {PICKLE} as {SAFETENSORS}, without unpickling"))
        return draft_of(config, tensors.tensors, tensors.metadata, *steps)
    others = weights.others if isinstance(weights, WeightsFiles) else ()
    shards = [one for one in others if SHARD.match(one.name)]
    if isinstance(weights, WeightsFiles) and weights.chosen is None and shards:
        return _joined(source, config, shards)
    raise CannotMend(tensors.why)


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
    return Draft(config.raw, recipes, tensors, metadata, steps)


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
