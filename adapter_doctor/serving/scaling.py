"""The scaling that an engine applies to each module, against the one that the adapter was trained with."""

from __future__ import annotations

import math
from collections.abc import Iterator

from adapter_doctor.knowledge.profiles import Scaling
from adapter_doctor.serving.case import Case, parameter_name


def factors(case: Case, scaling: Scaling) -> dict[str, float]:
    """By module, what the engine's scaling is to the trained one; nothing for modules without a whole pair.

    Raises:
        TypeError, ValueError: the config's ranks or alphas are of no use.
        ZeroDivisionError: the trained scaling is 0.
    """
    return {module: own / trained for module, own, trained in _scalings(case, scaling)}


def trained(case: Case) -> set[float]:
    """The scalings that PEFT applies, each once.

    Raises:
        TypeError, ValueError: as in :func:`factors`.
    """
    return {round(scaling, 9) for _, scaling in case.declared.values()}


def padded(rank: int) -> int:
    """The rank to which TGI and LoRAX pad on one GPU (utils/adapter.py and utils/lora.py, `pad_rank`)."""
    return 8 if rank <= 8 else -(-rank // 16) * 16


def _scalings(case: Case, scaling: Scaling) -> Iterator[tuple[str, float, float]]:
    config = case.config
    alpha_of_all = config.get("lora_alpha", 8)
    for module, halves in case.pairs.items():
        if len(halves) < 2:
            continue
        own, wanted = case.declared[module]
        if scaling.alpha == "none":
            yield module, 1.0, wanted
            continue
        of_all, stacked = config.get("r", 8), parameter_name(module) != module
        rank = {"pattern": own, "config": of_all, "tensor": own if stacked else case.rank(module)}[scaling.rank]
        # What PEFT multiplies by, times the module's rank, is its alpha.
        alpha = wanted * (math.sqrt(own) if config.get("use_rslora") else own)
        if scaling.alpha == "config":
            alpha = alpha_of_all
        below = math.sqrt(rank) if scaling.rslora and config.get("use_rslora") else rank
        yield module, alpha / below, wanted
