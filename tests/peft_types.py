"""One small healthy adapter of every PEFT type, made with PEFT on a tiny Llama, and three ways of hurting it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import tiny

from adapter_doctor import Report, check
from adapter_doctor.loading.process import LoadingChild

WEIGHTS = "adapter_model.safetensors"
STATES = ("healthy", "dropped", "renamed", "misshapen")

_LINEAR = {"target_modules": ["q_proj", "v_proj"]}
_PROMPT = {"num_virtual_tokens": 4}

OPTIONS: dict[str, dict[str, Any]] = {
    "ADALORA": {**_LINEAR, "init_r": 4, "target_r": 2, "total_step": 10},
    "ADAMSS": {**_LINEAR, "r": 4, "num_subspaces": 2},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2},
    "BEFT": {"target_modules": ["v_proj"]},
    "BOFT": {**_LINEAR, "boft_block_size": 4},
    "C3A": {**_LINEAR, "block_size": 4},
    "CARTRIDGE": {**_PROMPT, "num_frozen_tokens": 1},
    "CPT": {"cpt_token_ids": [3, 4, 5, 6], "cpt_mask": [1, 1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3, 4]},
    "DEFT": {**_LINEAR, "r": 4},
    "DELORA": {**_LINEAR, "r": 4},
    "FOURIERFT": {**_LINEAR, "n_frequency": 20},
    "FROD": {**_LINEAR},
    "GLORA": {**_LINEAR, "r": 4},
    "GRALORA": {**_LINEAR, "r": 4, "gralora_k": 2},
    "HIRA": {**_LINEAR, "r": 4},
    "HRA": {**_LINEAR, "r": 4},
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LILY": {**_LINEAR, "r": 4, "num_B": 2},
    "LN_TUNING": {"target_modules": ["input_layernorm", "norm"]},
    "LOHA": {**_LINEAR, "r": 4},
    "LOKR": {**_LINEAR, "r": 4},
    "LORA": {**_LINEAR, "r": 4},
    "MISS": {**_LINEAR, "r": 4},
    "MULTITASK_PROMPT_TUNING": {**_PROMPT, "num_tasks": 2},
    "OFT": {**_LINEAR, "oft_block_size": 8},
    "OSF": {**_LINEAR},
    "PEANUT": {**_LINEAR, "r": 4},
    "POLY": {**_LINEAR, "r": 4},
    "PREFIX_TUNING": _PROMPT,
    "PROMPT_TUNING": _PROMPT,
    "PSOFT": {**_LINEAR, "r": 4},
    "PVERA": {**_LINEAR, "r": 4},
    "P_TUNING": {**_PROMPT, "encoder_hidden_size": 16},
    "RANDLORA": {**_LINEAR, "r": 4},
    "ROAD": {**_LINEAR, "variant": "road_1", "group_size": 8},
    "SHADOW": {},
    "SHIRA": {**_LINEAR, "r": 4},
    "SUPERTUNING": {**_LINEAR},
    "TINYLORA": {**_LINEAR, "r": 2, "u": 4},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens"], "token_indices": [5, 6]},
    "UNILORA": {**_LINEAR, "r": 4, "theta_d_length": 64},
    "VBLORA": {**_LINEAR, "r": 4, "num_vectors": 8, "vector_length": 8, "save_only_topk_weights": False},
    "VERA": {**_LINEAR, "r": 4},
    "WAVEFT": {**_LINEAR, "n_frequency": 16},
}
"""Arguments of each type's config; XLORA is made of two LoRA adapters and has a maker of its own."""
KINDS = sorted([*OPTIONS, "XLORA"])


def make_base(folder: Path) -> Path:
    """A tiny Llama on disk."""
    model = tiny.by_name("llama").build()
    model.config.use_cache = False  # X-LoRA wants it so
    model.save_pretrained(folder)
    return folder


def make_adapter(kind: str, base: Path, folder: Path) -> Path:
    """A trained-looking adapter of this type in ``folder``."""
    import peft
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    if kind == "XLORA":
        parts = {
            name: str(make_adapter("LORA", base, folder.parent / f"{folder.name}-{name}")) for name in ("one", "two")
        }
        config = peft.XLoraConfig(task_type="CAUSAL_LM", hidden_size=32, xlora_depth=1, adapters=parts)
    else:
        config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind](task_type="CAUSAL_LM", **OPTIONS[kind])
    adapted = peft.get_peft_model(model, config)
    tiny.train_by_chance(adapted)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    if kind == "XLORA":
        # PEFT names the parts "0" and "1", and its save then drops `layers.0` of the classifier: put it back.
        from safetensors.torch import save_file

        state = {key: one for key, one in adapted.state_dict().items() if "internal_xlora_classifier" in key}
        save_file(state, folder / "adapter_model.safetensors")
    return folder


def hurt(healthy: Path, root: Path) -> dict[str, Path]:
    """Copies of an adapter: one tensor dropped, one under another name, one of another shape."""
    from safetensors.torch import load_file, save_file

    state = load_file(healthy / WEIGHTS)
    # A tensor that several layers share is saved once for each: one copy fewer loses nothing.
    bits = {key: one.numpy().tobytes() for key, one in state.items()}
    alone = sorted(key for key, own in bits.items() if list(bits.values()).count(own) == 1)
    chosen = alone[len(alone) // 2]
    value = state[chosen]
    others = {key: one for key, one in state.items() if key != chosen}
    changes = {
        "dropped": others,
        "renamed": {**others, chosen.replace(".", ".odd.", 1) if "." in chosen else "odd": value},
        "misshapen": {**others, chosen: value.repeat(2, *[1] * (value.dim() - 1)) if value.dim() else value.repeat(2)},
    }
    for name, changed in changes.items():
        shutil.copytree(healthy, root / name)
        save_file({key: one.contiguous() for key, one in changed.items()}, root / name / WEIGHTS)
    return {name: root / name for name in changes}


def reports(kind: str, base: Path, child: LoadingChild, root: Path) -> dict[tuple[str, str], Report]:
    """What the tool says of the healthy adapter and the hurt ones, by state and by how far it went."""
    healthy = make_adapter(kind, base, root / "healthy")
    found = {}
    for state, folder in {"healthy": healthy, **hurt(healthy, root)}.items():
        found[state, "skeleton"] = check(base, folder, child=child)
        found[state, "no"] = check(base, folder, load="no", cache=False)
    return found


def row(kind: str, found: dict[tuple[str, str], Report]) -> str:
    """The type's line of the README's table."""
    cells = [" / ".join(_said(found[state, load]) for load in ("skeleton", "no")) for state in STATES]
    return f"| {kind} | {' | '.join(cells)} |"


def _said(report: Report) -> str:
    if report.cause is not None:
        return report.cause.rule.code
    return {"compatible": "✓", "undetermined": "?"}.get(report.verdict, report.verdict)
