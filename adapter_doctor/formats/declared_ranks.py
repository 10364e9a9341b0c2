"""The ranks and scalings that an adapter config declares, module by module, as PEFT reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from adapter_doctor.facts import AdapterConfig
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
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _patterned(config: AdapterConfig, name: str, module: str, default: Any) -> Any:
    pattern = config.get(name, {})
    if not isinstance(pattern, Mapping):
        raise TypeError(f"`{name}` is {type(pattern).__name__}, not an object")
    key = pattern_key(pattern, module) if pattern else None
    return default if key is None else pattern[key]
