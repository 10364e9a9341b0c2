"""The shapes of the tensors that a PEFT method adds to a layer, as formulas of the layer's widths and the config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from adapter_doctor.facts import AdapterConfig, Module, Shape
from adapter_doctor.formats.declared_ranks import rank_of
from adapter_doctor.formats.patterns import BadPattern, names_matched


class CannotForetell(Exception):
    """The forecast would be a guess; the message says why."""


class Refused(Exception):
    """PEFT would raise; ``error`` names its exception."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


@dataclass(frozen=True, slots=True)
class Layer:
    """A targeted layer: its module, widths, and whether its base carries a bias."""

    name: str
    kind: str
    out: int
    into: int
    module: Module


def _lora(config: AdapterConfig, layer: Layer) -> dict[str, Shape]:
    rank = checked_rank(config, layer.name)
    out, into = layer.out, layer.into
    if layer.kind == "embedding":
        places: dict[str, Shape] = {"lora_embedding_A": (rank, into), "lora_embedding_B": (out, rank)}
        magnitude: Shape = (out,)
    elif layer.kind.startswith("conv") and layer.kind != "conv1d":
        weight = layer.module.parameters["weight"]
        kernel, groups = weight[2:], layer.module.groups
        if rank % groups:
            raise Refused("ValueError", f"r={rank} is not a multiple of the {groups} groups of {layer.name}")
        places = {
            "lora_A.weight": (rank, into, *kernel),
            "lora_B.weight": (out, rank // groups, *(1 for _ in kernel)),
        }
        magnitude = (1, out, *(1 for _ in kernel))
    else:
        places = {"lora_A.weight": (rank, into), "lora_B.weight": (out, rank)}
        magnitude = (out,)
    if config.get("use_dora"):
        places["lora_magnitude_vector"] = magnitude
    if config.get("lora_bias") and layer.kind != "embedding":
        places["lora_B.bias"] = (out,)
    return places


def checked_rank(config: AdapterConfig, module: str) -> int:
    """The declared rank of a module.

    Raises:
        Refused: PEFT would refuse it.
        BadPattern: a key of `rank_pattern` is no regular expression.
    """
    try:
        return rank_of(config, module)
    except BadPattern:
        raise
    except (TypeError, ValueError) as error:
        raise Refused(type(error).__name__, str(error)) from None


def _ia3(config: AdapterConfig, layer: Layer) -> dict[str, Shape]:
    forward = config.get("feedforward_modules")
    if forward is None or not isinstance(forward, (list, str)):
        raise CannotForetell("`feedforward_modules` is null; PEFT takes its default for the model type")
    feedforward = bool(names_matched(forward, [layer.name]))
    if layer.kind in ("linear", "conv1d"):
        return {"ia3_l": (1, layer.into) if feedforward else (layer.out, 1)}
    raise CannotForetell("IA3 on a layer that is not linear")


def _loha(config: AdapterConfig, layer: Layer) -> dict[str, Shape]:
    if layer.kind != "linear":
        raise CannotForetell("LoHa on a layer that is not linear")
    rank = checked_rank(config, layer.name)
    out, into = layer.out, layer.into
    return {"hada_w1_a": (out, rank), "hada_w1_b": (rank, into), "hada_w2_a": (out, rank), "hada_w2_b": (rank, into)}


def _linear_only(shapes: Mapping[str, str]) -> Callable[[AdapterConfig, Layer], dict[str, Shape]]:
    """A formula for Linear layers, from tails to shapes spelled with r, in and out."""

    def formula(config: AdapterConfig, layer: Layer) -> dict[str, Shape]:
        if layer.kind != "linear":
            raise CannotForetell(f"{config.peft_type} on a layer that is not linear")
        sizes = {"r": checked_rank(config, layer.name), "in": layer.into, "out": layer.out, "1": 1}
        return {tail: tuple(sizes[part] for part in shape.split()) for tail, shape in shapes.items()}

    return formula


FORMULAS: Mapping[str, Callable[[AdapterConfig, Layer], dict[str, Shape]]] = {
    "LORA": _lora,
    "IA3": _ia3,
    "LOHA": _loha,
    "HIRA": _linear_only({"hira_A": "r in", "hira_B": "out r"}),
    "DELORA": _linear_only(
        {"delora_A": "r in", "delora_B": "out r", "delora_lambda": "1", "delora_w_norm": "in"}
    ),
    "HRA": _linear_only({"hra_u": "in r"}),
}  # fmt: skip
"""By PEFT type: the tails of the names, and shapes, that a targeted layer gets. A type not in here cannot be foretold."""
