"""The scaling that an engine applies to each module, against the one that the adapter was trained with."""

from __future__ import annotations

import math
from collections.abc import Iterator

from adapter_doctor.formats.declared_ranks import rank_of, scaling_of
from adapter_doctor.knowledge.profiles import Scaling
from adapter_doctor.serving.case import Case


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
    return {round(scaling_of(case.config, parameter_name(module)), 9) for module in case.pairs}


def parameter_name(module: str) -> str:
    """The name that PEFT's patterns are matched with: a stacked expert's parameter instead of its place in the file."""
    if module.endswith(".experts.base_layer"):
        return f"{module.removesuffix('.base_layer')}.gate_up_proj"
    return f"{module}.down_proj" if module.endswith(".experts") else module


def padded(rank: int) -> int:
    """The rank to which TGI and LoRAX pad on one GPU (utils/adapter.py and utils/lora.py, `pad_rank`)."""
    return 8 if rank <= 8 else -(-rank // 16) * 16


def _scalings(case: Case, scaling: Scaling) -> Iterator[tuple[str, float, float]]:
    config = case.config
    alpha_of_all = config.get("lora_alpha", 8)
    for module, halves in case.pairs.items():
        if len(halves) < 2:
            continue
        name = parameter_name(module)
        wanted = scaling_of(config, name)
        if scaling.alpha == "none":
            yield module, 1.0, wanted
            continue
        own, of_all = rank_of(config, name), config.get("r", 8)
        stacked = name != module
        rank = {"pattern": own, "config": of_all, "tensor": own if stacked else case.rank(module)}[scaling.rank]
        # What PEFT multiplies by, times the module's rank, is its alpha.
        alpha = wanted * (math.sqrt(own) if config.get("use_rslora") else own)
        if scaling.alpha == "config":
            alpha = alpha_of_all
        below = math.sqrt(rank) if scaling.rslora and config.get("use_rslora") else rank
        yield module, alpha / below, wanted
