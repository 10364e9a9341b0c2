"""Recognise adapters of other libraries by their file names and tensor names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Foreign:
    """Another library's format: its name, what gave it away, and how to get a PEFT adapter."""

    name: str
    evidence: str
    cure: str
    examples: tuple[str, ...] = ()


_FILES = (
    (
        r"^adapters\.(safetensors|npz)$",
        "mlx-lm",
        "convert it with `adapter-doctor fix`: MLX stores lora_a and lora_b transposed, and scale = alpha / r",
    ),
    (r"^pytorch_lora_weights\.(safetensors|bin)$", "diffusers", "load it with diffusers' `pipeline.load_lora_weights`"),
    (r"\.gguf$", "llama.cpp", "use the PEFT adapter that it was converted from; GGUF is for llama.cpp and Ollama"),
    (
        r"^(adapter_\d+\.pt|hf_adapter_\d+\.pt)$",
        "torchtune",
        "convert it with `adapter-doctor fix`, or save it with torchtune's `save_adapter_weights_only` for PEFT",
    ),
    (
        r"^lora\.safetensors$",
        "mistral-finetune",
        "convert it with `adapter-doctor fix`, or load it with mistral-inference's `model.load_lora`",
    ),
)
_KEYS = (
    (r"^lora_(unet|te\d?|transformer|prior_unet)_", "kohya", "for a text encoder, convert it with `adapter-doctor fix`; otherwise load it with diffusers' `load_lora_weights`"),
    (r"\.lora_(down|up)\.weight$", "kohya", "for a text encoder, convert it with `adapter-doctor fix`; otherwise load it with diffusers' `load_lora_weights`"),
    # GPT-2, Falcon, MPT and ChatGLM call their body `transformer` too: without PEFT's prefix they are no diffusers'.
    (r"^(unet|text_encoder|transformer)\.(?!h\.\d|encoder\.layers\.\d|blocks\.\d+\.(?:attn\.(?:Wqkv|out_proj)|ffn)\.).*\.lora(\.|_)", "diffusers", "load it with diffusers' `pipeline.load_lora_weights`"),
    (r"(^|\.)(layers?|h)\.\d+\..*\.lora_[ab]$", "mlx-lm", "convert it with `adapter-doctor fix`: MLX stores lora_a and lora_b transposed, and scale = alpha / r"),
    (r"^layers\.\d+\..*\.lora_[ab]\.weight$", "torchtune", "convert it with `adapter-doctor fix`, or save it from torchtune in PEFT's format"),
    (r"^layers\.\d+\.(attention|feed_forward)\.\w+\.lora_[AB]\.weight$", "mistral-finetune",
     "convert it with `adapter-doctor fix`, or load it with mistral-inference's `model.load_lora`"),
    (r"^blk\.\d+\..*\.lora_[ab]$", "llama.cpp", "use the PEFT adapter that it was converted from"),
)  # fmt: skip


def format_of_files(names: Iterable[str]) -> Foreign | None:
    """The format that a file's name gives away, or None."""
    for name in names:
        for pattern, library, cure in _FILES:
            if re.search(pattern, name):
                return Foreign(library, f"the weights are in {name}", cure, (name,))
    return None


def format_of_keys(names: Iterable[str]) -> Foreign | None:
    """The format that most of the tensor names follow, or None."""
    names = list(names)
    for pattern, library, cure in _KEYS:
        found = [name for name in names if re.search(pattern, name)]
        if found and len(found) * 2 > len(names):
            return Foreign(library, f"{len(found)} of {len(names)} tensors are named its way", cure, tuple(found[:3]))
    return None
