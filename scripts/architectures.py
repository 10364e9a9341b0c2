"""Check a healthy adapter on every architecture that transformers can build from a default config, and print exceptions.

    python scripts/architectures.py [--tasks CAUSAL_LM,SEQ_CLS,…] [--only llama,bert] [--cap 100] [--static]

The base is a config alone: skeletons need no weights. The adapter is made on the skeleton of the same class by PEFT
itself and filled with random numbers. Wanted for each: compatible, no error, no warning.

With `--static` nothing is loaded: the base gets a checkpoint whose header names all its tensors and whose values are a
hole in the file. Wanted for each: compatible, or undetermined where files alone do not tell.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto
from transformers.pytorch_utils import Conv1D

from adapter_doctor.doctor import check
from adapter_doctor.findings import Severity
from adapter_doctor.loading import child as loading
from adapter_doctor.loading.process import LoadingChild

TABLES = {
    "CAUSAL_LM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "SEQ_2_SEQ_LM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES", "FEATURE_EXTRACTION": "MODEL_MAPPING_NAMES",
    "IMAGE_CLS": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES", "AUDIO_CLS": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "IMAGE_TEXT": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "SPEECH": "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
}  # fmt: skip
NUMBERS = {
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
PEFT_TASKS = {"CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"}


def make(model_type: str, task: str, class_name: str, root: Path, cap: int) -> tuple[Path, Path]:
    """Base and adapter folders. A model whose adapter would be too large gets fewer layers."""
    cls = loading.transformers_class(class_name)
    if cls is None:
        raise LookupError(f"no class {class_name}")
    for layers in (None, 4, 2):
        config = CONFIG_MAPPING[model_type]()
        for part in filter(None, (config, getattr(config, "text_config", None))):
            complete(part)
            if layers is not None:
                shorten(part, layers)
        model = loading.skeleton(cls, config)
        adapted = adapt(model, model_type, task)
        state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        if sum(value.numel() for value in state.values()) <= cap * 1_000_000:
            break
    else:
        raise LookupError("the adapter would be too large to make here")
    base, folder = root / "base", root / "adapter"
    base.mkdir()
    config.architectures = [class_name]
    config.save_pretrained(base)
    adapted.peft_config["default"].inference_mode = True
    adapted.peft_config["default"].save_pretrained(folder)
    raw = json.loads((folder / "adapter_config.json").read_text())
    raw["base_model_name_or_path"] = str(base)
    if task not in PEFT_TASKS:  # what PeftModel.save_pretrained records where the task is null
        raw["auto_mapping"] = {"base_model_class": class_name, "parent_library": cls.__module__}
    (folder / "adapter_config.json").write_text(json.dumps(raw))
    save_file({key: torch.randn(value.shape) for key, value in state.items()}, folder / "adapter_model.safetensors")
    return base, folder


def shorten(config: Any, layers: int) -> None:
    """Give a config fewer layers, and as many entries in each of its lists that has one for every layer."""
    raw = config.to_dict()
    before = raw.get("num_hidden_layers")
    for name, value in raw.items():
        if name.endswith("_types") and isinstance(value, list) and len(value) == before:
            setattr(config, name, value[:layers])
    for name in ("num_hidden_layers", "num_layers"):
        if isinstance(raw.get(name), int):
            setattr(config, name, layers)


def complete(config: Any) -> None:
    """Give a value to what a default config leaves open and published ones set, and without which nothing is built."""
    raw = config.to_dict()
    heads = raw.get("num_attention_heads")
    if heads and raw.get("num_key_value_heads", heads) is None:
        config.num_key_value_heads = heads
    if heads and raw.get("head_dim", heads) is None:
        config.head_dim = config.hidden_size // heads
    if config.model_type == "dbrx":
        config.attn_config.rope_theta = 10_000.0
    if config.model_type == "reformer":
        config.is_decoder = True
    if config.model_type == "lfm2_moe" and not config.layer_types:
        config.layer_types = ["conv", "full_attention"] * (config.num_hidden_layers // 2)


def adapt(model: Any, model_type: str, task: str) -> Any:
    """LoRA on some of the linear layers, as a user would choose them."""
    linear = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear | Conv1D)]
    head = loading.module_tree(model)["output_embedding"]
    blocks = {name.rpartition(".")[2] for name, one in model.named_modules() if any(one.children())}
    heads = {"score", "classifier", "qa_outputs", head} | blocks  # a name of both would make PEFT adapt the block
    leaves = sorted(leaf for leaf in {name.rpartition(".")[2] for name in linear} if not leaf.isdigit())
    leaves = [leaf for leaf in leaves if leaf not in heads and not (head and head.endswith(leaf))]
    if "mamba" in type(model).__name__.lower() or "nemotronh" in type(model).__name__.lower():
        leaves = [leaf for leaf in leaves if leaf not in ("out_proj", "conv1d")]  # PEFT refuses them there
    if not leaves:
        raise LookupError("no linear layer to target")
    chosen = random.Random(model_type).sample(leaves, min(4, len(leaves)))
    # PEFT refuses one half of a pair that transformers fuses.
    chosen += [
        two for one, two in (("gate_proj", "up_proj"), ("up_proj", "gate_proj")) if one in chosen and two in leaves
    ]
    lora = LoraConfig(
        r=1, lora_alpha=2, target_modules=sorted(set(chosen)), task_type=task if task in PEFT_TASKS else None
    )
    return get_peft_model(model, lora, low_cpu_mem_usage=True)


def save_names(base: Path, model_type: str, class_name: str) -> None:
    """A checkpoint of the base's own names and shapes, each tensor once, whose values take no room on the disk."""
    config = CONFIG_MAPPING[model_type].from_pretrained(base)
    header, at, seen = {}, 0, set()
    for name, value in (
        loading.skeleton(loading.transformers_class(class_name), config).state_dict(keep_vars=True).items()
    ):
        if id(value) not in seen and value.dtype in NUMBERS:
            seen.add(id(value))
            size = value.numel() * value.element_size()
            header[name] = {"dtype": NUMBERS[value.dtype], "shape": list(value.shape), "data_offsets": [at, at + size]}
            at += size
    text = json.dumps(header).encode()
    with (base / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TABLES))
    parser.add_argument("--only", default="")
    parser.add_argument("--cap", type=int, default=100, help="largest adapter to make, in million numbers")
    parser.add_argument("--static", action="store_true", help="judge from files alone")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    only = set(filter(None, options.only.split(",")))
    tally: Counter[str] = Counter()
    with LoadingChild() as child:
        for task in options.tasks.split(","):
            table = getattr(modeling_auto, TABLES[task])
            for model_type, entry in sorted(table.items()):
                if only and model_type not in only:
                    continue
                class_name = entry if isinstance(entry, str) else entry[0]
                tally[f"{task} named"] += 1
                begun = time.monotonic()
                with tempfile.TemporaryDirectory() as name:
                    try:
                        base, adapter = make(model_type, task, class_name, Path(name), options.cap)
                        if options.static:
                            save_names(base, model_type, class_name)
                    except Exception as error:
                        tally[f"{task} not built"] += 1
                        print(
                            f"not built {task} {model_type}: {type(error).__name__}: {str(error)[:120]!r}", flush=True
                        )
                        continue
                    load = "no" if options.static else "skeleton"
                    report = check(base, adapter, load=load, child=child, time_limit=300, cache=False)
                found = [one.rule.code for one in report.findings if one.rule.severity >= Severity.WARNING]
                good = report.verdict == "compatible" and not found
                open_ = options.static and report.verdict == "undetermined" and not found
                tally[f"{task} {'healthy' if good else 'undetermined' if open_ else 'EXCEPTION'}"] += 1
                if not (good or open_):
                    print(f"EXCEPTION {task} {model_type} ({class_name}): {report.summary[:300]} {found}", flush=True)
                if time.monotonic() - begun > 60:
                    print(f"slow {task} {model_type}: {time.monotonic() - begun:.0f} s", flush=True)
    for key, count in sorted(tally.items()):
        print(f"{count:6} {key}")
    sys.exit(1 if any("EXCEPTION" in key for key in tally) else 0)


if __name__ == "__main__":
    main()
