"""The ranks and scalings that an adapter config declares, module by module, as PEFT reads them; and the true ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from adapter_doctor.facts import AdapterConfig, AdapterTensors
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.formats.patterns import pattern_key


def rank_of(config: AdapterConfig, module: str) -> int:
    """The rank of a module: that of the first matching `rank_pattern` key, else `r` (8 if absent).

    Raises:
        TypeError: `rank_pattern` is no object, or the rank no integer: PEFT raises too.
        ValueError: the rank is not positive (PEFT raises), or a key is no regular expression (BadPattern).
    """
    rank = _patterned(config, "rank_pattern", module, config.get("r", 8))
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise TypeError(f"the rank {rank!r} is no integer")
    if rank <= 0:
        raise ValueError(f"`r` should be a positive integer value but the value passed is {rank}")
    return rank


def scaling_of(config: AdapterConfig, module: str) -> float:
    """What PEFT multiplies a LoRA module's update by: alpha / r, or alpha / sqrt(r) with `use_rslora`.

    Raises:
        TypeError, ValueError: as in :func:`rank_of`, and where alpha is no number.
    """
    alpha = _patterned(config, "alpha_pattern", module, config.get("lora_alpha", 8))
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise TypeError(f"alpha {alpha!r} is no number")
    rank = rank_of(config, module)
    try:
        return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)
    except OverflowError as trouble:  # as PEFT does
        raise ValueError(f"alpha over rank is no number: {trouble}") from None


def declared(config: AdapterConfig, pattern: str, module: str) -> Any:
    """What `rank_pattern` or `alpha_pattern` gives a module, or None where no key of it matches.

    Raises:
        TypeError: the pattern is no object.
        ValueError: a key is no regular expression (BadPattern).
    """
    return _patterned(config, pattern, module, None)


# Where a factor has the rank among its sizes.
_RANK_AXIS = {
    "lora_A": 0, "lora_embedding_A": 0, "lora_B": 1, "lora_embedding_B": 1, "hada_w1_b": 0, "hira_A": 0, "delora_A": 0,
    "hra_u": 1,
}  # fmt: skip


def ranks_in(tensors: AdapterTensors) -> dict[str, int]:
    """The rank of every module as its tensors have it; stacked experts, whose factors hold r for each, are left out."""
    ranks: dict[str, int] = {}
    for name, info in tensors.tensors.items():
        one = parse(name)
        if one is None or one.parameter not in _RANK_AXIS:
            continue
        axis = _RANK_AXIS[one.parameter]
        if len(info.shape) < 2 or 0 in info.shape or "experts" in one.module or (axis and len(info.shape) > 2):
            continue
        if axis == 0 or one.module not in ranks:
            ranks[one.module] = info.shape[axis]
    return ranks


def pattern_for(ranks: Mapping[str, int], wrong: Iterable[str], kept: Mapping[str, Any]) -> dict[str, Any]:
    """A `rank_pattern` that gives the ``wrong`` modules their ranks: by kind where all of a kind agree, else by path.

    The keys of ``kept``, the pattern so far, stay behind it.
    """
    by_leaf: dict[str, set[int]] = {}
    for module, rank in ranks.items():
        by_leaf.setdefault(module.rpartition(".")[2], set()).add(rank)
    named = {
        (leaf if len(by_leaf[leaf]) == 1 else module): ranks[module]
        for module in wrong
        for leaf in [module.rpartition(".")[2]]
    }
    return {**named, **{key: rank for key, rank in kept.items() if key not in named}}


def _patterned(config: AdapterConfig, name: str, module: str, default: Any) -> Any:
    pattern = config.get(name, {})
    if not isinstance(pattern, Mapping):
        raise TypeError(f"`{name}` is {type(pattern).__name__}, not an object")
    key = pattern_key(pattern, module) if pattern else None
    return default if key is None else pattern[key]
