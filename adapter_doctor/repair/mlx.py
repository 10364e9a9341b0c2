"""MLX-LM's format, from PEFT's and back: `adapters.safetensors` and a config of its own, factors transposed.

`mlx_lm/tuner/utils.py` (load_adapters, linear_to_lora_layers) and `mlx_lm/tuner/lora.py` of 0.32.2: lora_a is (in, r),
lora_b (r, out), the update is scale · x @ lora_a @ lora_b, and ``keys`` may be whole module paths.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapter_doctor import knowledge
from adapter_doctor.facts import AdapterConfig, AdapterTensors, BaseConfig, Facts, FileState, Missing
from adapter_doctor.formats.adapter_keys import PREFIX, parse
from adapter_doctor.formats.declared_ranks import scaling_of
from adapter_doctor.repair.opening import draft_of, read_weights
from adapter_doctor.repair.plan import CannotMend, Draft, Step
from adapter_doctor.repair.recipes import Kept, Recipe, leaves, transposed
from adapter_doctor.repair.writing import write_weights
from adapter_doctor.sources import Source

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"


def is_mlx(config: AdapterConfig | Missing) -> bool:
    """Whether a config is MLX-LM's and not PEFT's."""
    return isinstance(config, AdapterConfig) and isinstance(config.get("lora_parameters"), Mapping)


def opened(source: Source, config: AdapterConfig, base_name: str = "") -> Draft:
    """The draft of a PEFT adapter that computes what an adapter of MLX-LM does.

    Raises:
        CannotMend: it is no plain LoRA, or cannot be read.
    """
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora":
        raise CannotMend(f"it is an adapter of MLX-LM of the type {kind!r}, and only 'lora' is converted")
    if WEIGHTS not in source.files():
        raise CannotMend(f"the config is MLX-LM's, and there is no {WEIGHTS}")
    parameters = config.raw["lora_parameters"]
    rank, scale = parameters.get("rank"), parameters.get("scale")
    if not isinstance(rank, int) or rank < 1 or not isinstance(scale, (int, float)):
        raise CannotMend(f"the config has rank {rank!r} and scale {scale!r}, expected a positive integer and a number")
    tensors, metadata = read_weights(source, FileState(WEIGHTS, "ok", size=source.files()[WEIGHTS]))
    draft = draft_of(AdapterConfig({}), tensors, metadata)
    made: dict[str, Recipe] = {}
    modules = set()
    for name, recipe in draft.tensors.items():
        module, _, half = name.rpartition(".")
        if half not in ("lora_a", "lora_b") or len(recipe.shape) != 2:
            raise CannotMend(f"{name} is no LoRA of a linear layer or an embedding")
        modules.add(module)
        embedding = module.rpartition(".")[2] in knowledge.embedding_layers() and not module.endswith("lm_head")
        parameter = f"lora_embedding_{half[-1].upper()}" if embedding else f"lora_{half[-1].upper()}.weight"
        made[f"{PREFIX}{module}.{parameter}"] = transposed(recipe)
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": scale * rank, "bias": "none",
        "target_modules": sorted(modules), "base_model_name_or_path": base_name or None, "inference_mode": True,
    }  # fmt: skip
    step = Step(
        "AD215",
        f"write MLX-LM's {len(modules)} pairs in PEFT's format: scale {scale:g} as lora_alpha / r",
        settings=settings,
    )
    return Draft(settings, made, tensors, metadata, (step,))


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
