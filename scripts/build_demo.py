"""Build the demo: one tiny base model and three tiny adapters, of which two do not work on it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

WEIGHTS = "adapter_model.safetensors"


def llama(hidden: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=320, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip


def save_adapter(base: Path, hidden: int, folder: Path) -> None:
    """An adapter that looks trained: every tensor has moved."""
    model = AutoModelForCausalLM.from_config(llama(hidden))
    model.config._name_or_path = model.name_or_path = str(base)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted: PeftModel = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    adapted.save_pretrained(folder, save_embedding_layers=False)


def main(root: Path) -> None:
    torch.manual_seed(0)
    base = root / "base"
    AutoModelForCausalLM.from_config(llama(64)).save_pretrained(base)
    save_adapter(base, 64, root / "sound")
    save_adapter(base, 96, root / "wrong-base")
    save_adapter(base, 64, root / "silently-dropped")
    weights = root / "silently-dropped" / WEIGHTS
    # What torch.compile leaves behind: PEFT loads this file without an error and applies nothing of it.
    renamed = {
        key.replace("base_model.model.", "base_model.model._orig_mod.", 1): value
        for key, value in load_file(weights).items()
    }
    save_file(renamed, weights, metadata={"format": "pt"})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
