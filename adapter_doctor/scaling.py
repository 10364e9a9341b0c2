"""What each module's update is multiplied by, and what would change it without anyone noticing."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adapter_doctor.facts import AdapterConfig, AdapterTensors
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.formats.declared_ranks import rank_of, scaling_of
from adapter_doctor.formats.patterns import BadPattern, pattern_key

SCALED = ("LORA", "ADALORA")


@dataclass(frozen=True, slots=True)
class Scaling:
    """Modules that share a rank and a scaling: their last names, how many, and the rank of their tensors.

    ``declared`` is the rank by the config, ``alpha`` and ``scaling`` what PEFT computes from the config; all three are
    None where PEFT refuses the config's values.
    """

    modules: tuple[str, ...]
    count: int
    rank: int
    declared: int | None
    alpha: float | None
    scaling: float | None


def scalings(config: AdapterConfig, tensors: AdapterTensors) -> tuple[Scaling, ...]:
    """The scalings of a LoRA, most modules first; none for methods that have no alpha."""
    if config.peft_type not in SCALED:
        return ()
    groups: dict[tuple[int, int | None, float | None, float | None], list[str]] = defaultdict(list)
    for module, rank in _ranks(tensors).items():
        declared = alpha = scaling = None
        try:
            declared, scaling = rank_of(config, module), scaling_of(config, module)
            alpha = scaling * (math.sqrt(declared) if config.get("use_rslora") else declared)
        except (TypeError, ValueError):
            declared = scaling = None
        groups[rank, declared, None if alpha is None else round(alpha, 6), scaling].append(module)
    found = [
        Scaling(tuple(sorted({module.rpartition(".")[2] for module in modules})), len(modules), *key)
        for key, modules in groups.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.count, one.modules)))


def _ranks(tensors: AdapterTensors) -> dict[str, int]:
    found = {}
    for name, info in tensors.tensors.items():
        one = parse(name)
        if one is not None and one.parameter in ("lora_A", "lora_embedding_A") and info.shape:
            found[one.module] = info.shape[0]
    return found


def doubts(config: AdapterConfig, tensors: AdapterTensors, groups: tuple[Scaling, ...]) -> Iterator[str]:
    """Sentences on what the config may have lost since the training. Alpha itself leaves no trace in the tensors."""
    if config.peft_type not in SCALED:
        return
    for one in groups:
        if one.declared is not None and one.rank != one.declared and "experts" not in " ".join(one.modules):
            yield (
                f"{', '.join(one.modules)}: rank {one.rank} in the file, {one.declared} in the config. PEFT refuses to load"
                f" it; with `r` set to {one.rank} and alpha {one.alpha:g} the scaling would be"
                f" {_scaling(one.alpha, one.rank, config):g}, right only if that was the training's alpha"
            )
    if "lora_alpha" not in config.raw:
        yield "`lora_alpha` is missing: PEFT takes 8, and the tensors do not tell what it was in training"
    for name in ("rank_pattern", "alpha_pattern"):
        value = config.get(name)
        if isinstance(value, Mapping) and value:
            unused = _unused(value, list(_ranks(tensors)))
            if unused:
                yield f"`{name}` has {', '.join(unused[:4])}, which match none of the adapter's modules and change nothing"
    first = groups[0] if groups else None
    if config.get("use_rslora") and first is not None and first.alpha is not None and first.declared:
        yield (
            f"`use_rslora` is on: scaling alpha / sqrt(r). A runtime that does not know it takes alpha / r,"
            f" {first.alpha / first.declared:g} instead of {first.scaling:g}"
        )


def _scaling(alpha: float | None, rank: int, config: AdapterConfig) -> float:
    return (alpha or 0) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _unused(pattern: Mapping[str, object], modules: list[str]) -> list[str]:
    try:
        used = {pattern_key(pattern, module) for module in modules}
    except BadPattern:
        return []
    return [key for key in pattern if key not in used]
