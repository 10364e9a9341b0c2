"""MLX-LM's format, from PEFT's: `adapters.safetensors` and a config of its own, factors transposed.

`mlx_lm/tuner/utils.py` (load_adapters, linear_to_lora_layers) and `mlx_lm/tuner/lora.py` of 0.32.2: lora_a is (in, r),
lora_b (r, out), the update is scale · x @ lora_a @ lora_b, and ``keys`` may be whole module paths.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adapter_doctor.facts import AdapterConfig, AdapterTensors, BaseConfig, Facts
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.repair.plan import CannotMend, Draft
from adapter_doctor.repair.recipes import Kept, Recipe, leaves, transposed
from adapter_doctor.repair.scalings import scaling_of
from adapter_doctor.repair.writing import write_weights

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"


def export(folder: Path, facts: Facts, place: Path) -> None:
    """Write the PEFT adapter in ``folder``, whose facts these are, in MLX-LM's format to ``place``.

    Raises:
        CannotMend: a tensor has no place in MLX-LM's format, or modules differ in rank or scaling.
    """
    config, tensors, base = facts.get(AdapterConfig), facts.get(AdapterTensors), facts.get(BaseConfig)
    assert isinstance(config, AdapterConfig)
    assert isinstance(tensors, AdapterTensors)
    made: dict[str, Recipe] = {}
    modules, scalings, ranks = set(), set(), set()
    for name, info in tensors.tensors.items():
        key = parse(name)
        if key is None or key.parameter not in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"):
            raise CannotMend(f"{name} has no place in MLX-LM's format")
        if key.tail not in ("", ".weight") or len(info.shape) != 2:
            raise CannotMend(f"{name} has no place in MLX-LM's format")
        modules.add(key.module)
        scalings.add(round(scaling_of(config, key.module), 9))
        if key.parameter.endswith("A"):
            ranks.add(info.shape[0])
        made[f"{key.module}.lora_{key.parameter[-1].lower()}"] = transposed(Kept(info))
    if len(scalings) != 1 or len(ranks) != 1:
        raise CannotMend(
            f"MLX-LM has one rank and one scale, and there are ranks {sorted(ranks)}, scalings {sorted(scalings)}"
        )
    layers = base.number("num_hidden_layers", "n_layer") if isinstance(base, BaseConfig) else None
    parameters = {"rank": ranks.pop(), "scale": scalings.pop(), "dropout": 0.0, "keys": sorted(modules)}
    settings: dict[str, Any] = {"fine_tune_type": "lora", "num_layers": layers or 0, "lora_parameters": parameters}
    (place / CONFIG).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    names = {info.file for recipe in made.values() for info in leaves(recipe)}
    write_weights(Draft(settings, made), {name: folder / name for name in names}, place / WEIGHTS)
