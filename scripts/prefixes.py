"""Hold what is foretold of learnt prompts (AD509) against the forward pass, for every class that runs on meta tensors.

    python scripts/prefixes.py [--tasks CAUSAL_LM,SEQ_2_SEQ_LM,SEQ_CLS] [--only llama,falcon]

Of each class of transformers a default config with at most eight layers is built without values, and given a prompt and
prefixes: as PEFT makes one, with half the heads, and twice as wide. The pass computes shapes alone, which is where these fail.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")

import torch
from architectures import TABLES, complete, shorten
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from peft.tuners.prefix_tuning import PrefixEncoder
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

from adapter_doctor.loading import child as loading


def build(model_type: str, class_name: str) -> Any:
    """The class without values, in bfloat16 and with the plainest attention, which all run on meta tensors."""
    config = CONFIG_MAPPING[model_type]()
    for part in filter(None, (config, getattr(config, "text_config", None))):
        complete(part)
        shorten(part, 8)
        part._attn_implementation, part._experts_implementation = "eager", "batched_mm"
        if getattr(part, "topk_group", 1) is None:
            part.topk_group = part.n_group = 1
    if getattr(config, "pad_token_id", 0) is None:
        config.pad_token_id = 0
    return loading.skeleton(loading.transformers_class(class_name), config).to(torch.bfloat16).eval()


def prompted(model_type: str, class_name: str, task: str) -> Iterator[tuple[str, Any]]:
    """The kinds of prompts, each on a model of its own."""
    with torch.device("meta"):
        config = PromptTuningConfig(task_type=task, num_virtual_tokens=3)
        yield "prompt", get_peft_model(build(model_type, class_name), config).to(torch.bfloat16).eval()
        for name, fewer, wider in (("prefix", 1, 1), ("half the heads", 2, 1), ("twice the width", 1, 2)):
            prefix = PrefixTuningConfig(task_type=task, num_virtual_tokens=3)
            model = get_peft_model(build(model_type, class_name), prefix)
            made = model.peft_config["default"]
            if name != "prefix" and made.num_attention_heads % 2:
                continue
            made.num_attention_heads //= fewer
            made.token_dim *= wider
            model.prompt_encoder["default"] = PrefixEncoder(made)
            yield name, model.to(torch.bfloat16).eval()


def fails(model: Any) -> str:
    """What the forward pass raises; empty where it passes."""
    ids = torch.zeros((1, 4), dtype=torch.long, device="meta")
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    try:
        with torch.device("meta"), torch.no_grad():
            model(input_ids=ids, **more)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]!r}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="CAUSAL_LM,SEQ_2_SEQ_LM,SEQ_CLS")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    only = set(filter(None, options.only.split(",")))
    tally: Counter[str] = Counter()
    for task in options.tasks.split(","):
        for model_type, entry in sorted(getattr(modeling_auto, TABLES[task]).items()):
            class_name = entry if isinstance(entry, str) else entry[0]
            if only and model_type not in only:
                continue
            try:
                bare = fails(build(model_type, class_name))
            except Exception as error:
                bare = str(error)
            if bare:
                tally[f"{task}: classes that do not run on meta tensors"] += 1
                continue
            try:
                for name, model in prompted(model_type, class_name, task):
                    told, real = loading.pass_refused(model, "default"), fails(model)
                    outcome = ("fails" if real else "passes") + (
                        ", foretold" if bool(told) == bool(real) else ", NOT foretold"
                    )
                    tally[f"{task} {name} {outcome}"] += 1
                    if bool(told) != bool(real):
                        print(f"{task} {model_type}, {name}: told {told!r}, and the pass says {real!r}", flush=True)
            except Exception as error:
                tally[f"{task}: PEFT makes none"] += 1
                print(f"{task} {model_type}: {type(error).__name__}: {str(error)[:100]!r}", flush=True)
    for key, count in sorted(tally.items()):
        print(f"{count:6} {key}")


if __name__ == "__main__":
    main()
