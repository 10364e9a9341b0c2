"""Which tensors of the base an adapter changes when it is merged, and by what."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from adapter_doctor import knowledge
from adapter_doctor.facts import AdapterConfig, AdapterTensors, BaseConfig, TensorInfo
from adapter_doctor.formats.adapter_keys import PREFIX, parse
from adapter_doctor.formats.declared_ranks import scaling_of

Kind = Literal["linear", "transposed", "embedding"]


@dataclass(frozen=True, slots=True)
class Update:
    """``scaling`` · ``up`` @ ``down`` is added to the base's ``tensor`` (an embedding's and a Conv1D's is transposed).

    ``magnitude`` are DoRA's: the sum's rows are then brought to these lengths.
    """

    module: str
    tensor: str
    kind: Kind
    scaling: float
    down: TensorInfo
    up: TensorInfo
    magnitude: TensorInfo | None = None


@dataclass(frozen=True, slots=True)
class Replacement:
    """The adapter's own tensor stands in for the base's ``tensor``: a module that was saved whole, a trained bias.

    ``of_task`` is set for the head of a class (`score`, `classifier`) that the base's checkpoint lacks.
    """

    tensor: str
    info: TensorInfo
    of_task: bool = False


@dataclass(frozen=True)
class Expected:
    """What a merge changes; ``unknown`` maps modules whose merge cannot be followed to the reason."""

    updates: tuple[Update, ...]
    replacements: tuple[Replacement, ...]
    unknown: Mapping[str, str]


def expected(
    config: AdapterConfig, tensors: AdapterTensors, base: Mapping[str, TensorInfo], base_config: BaseConfig
) -> Expected:
    """The changes that merging this adapter makes to a base with these tensors."""
    names = Names(base, base_config)
    factors: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    replacements, unknown = [], dict[str, str]()
    adapted = {one.module for key in tensors if (one := parse(key)) is not None}
    heads = set(knowledge.modules_saved_for(str(config.get("task_type"))))
    for key, info in tensors.tensors.items():
        one = parse(key)
        if one is not None and one.module:
            factors[one.module][one.parameter + (".bias" if one.tail.endswith(".bias") else "")] = info
            continue
        own_name = key.removeprefix(PREFIX)
        if own_name.endswith(".base_layer.weight") and own_name.removesuffix(".base_layer.weight") in adapted:
            continue  # PEFT's copy of an embedding that LoRA adapts
        name = names.find(own_name.replace(".base_layer.", "."))
        if name is not None:
            replacements.append(Replacement(name, info))
        elif heads & set(own_name.split(".")):  # a head that only the class of the task has
            replacements.append(Replacement(own_name, info, of_task=True))
        else:
            unknown[key] = "the base has no tensor of this name"
    updates = []
    for module, own in factors.items():
        made = _update(module, own, config, names, base, base_config)
        if isinstance(made, str):
            unknown[module] = made
        else:
            updates.append(made)
    return Expected(tuple(updates), tuple(replacements), unknown)


def _update(
    module: str,
    own: Mapping[str, TensorInfo],
    config: AdapterConfig,
    names: Names,
    base: Mapping[str, TensorInfo],
    base_config: BaseConfig,
) -> Update | str:
    """The update of one module, or why it cannot be followed."""
    embedding = "lora_embedding_A" in own
    down, up = (own.get(f"lora_{'embedding_' if embedding else ''}{half}") for half in "AB")
    extra = own.keys() - {"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"}
    if down is None or up is None or extra:
        return f"its tensors are {', '.join(sorted(own))}, whose merge is not followed here"
    name = names.find(f"{module}.weight")
    if name is None:
        return "the base has no weight of this name"
    try:
        scaling = scaling_of(config, module)
    except (TypeError, ValueError) as trouble:
        return f"its scaling cannot be told: {trouble}"
    shape = base[name].shape
    if len(shape) != 2 or len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != up.shape[1]:
        return f"the base's weight is {list(shape)}, and only matrices are followed here"
    width = (up.shape[0], down.shape[1])
    architecture = knowledge.architecture(base_config.model_type)
    turned = bool(architecture and architecture.conv1d) and shape == width[::-1]
    kind: Kind = "embedding" if embedding else "transposed" if turned else "linear"
    if shape != (width if kind == "linear" else width[::-1]):
        return f"the base's weight is {list(shape)}, the update {list(width)}"
    magnitude = own.get("lora_magnitude_vector")
    if magnitude is not None and kind != "linear":
        return "DoRA on a layer that is not linear is not followed here"
    return Update(module, name, kind, scaling, down, up, magnitude)


class Names:
    """From module names to the tensor names of a checkpoint, which may lack a prefix or carry an older one."""

    def __init__(self, tensors: Mapping[str, TensorInfo], config: BaseConfig) -> None:
        self._exact = {name: name for name in tensors}
        steps = next(filter(None, map(knowledge.conversions, (*config.architectures, config.model_type))), ())
        self._converted: dict[str, str] = {}
        for name in tensors:
            new = name
            for step in steps:
                if step.kind == "rename":
                    for source, target in zip(step.sources, step.targets * len(step.sources), strict=False):
                        new = re.sub(source, target, new, count=1)
            self._converted.setdefault(new, name)
        self._tails: dict[str, list[str]] = defaultdict(list)
        for name in tensors:
            self._tails[".".join(name.split(".")[-3:])].append(name)

    def find(self, name: str) -> str | None:
        """The checkpoint's name for a tensor of the model, if just one can be meant."""
        found = self._exact.get(name) or self._converted.get(name)
        if found is not None:
            return found
        near = [
            one for one in self._tails.get(".".join(name.split(".")[-3:]), ())
            if one.endswith(f".{name}") or name.endswith(f".{one}")
        ]  # fmt: skip
        return near[0] if len(near) == 1 else None
