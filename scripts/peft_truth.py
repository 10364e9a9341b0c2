"""What `PeftModel.from_pretrained` does with an adapter, found by comparing values; asked by `agreement.py`.

    ANY/bin/python scripts/peft_truth.py     reads requests as JSON lines, answers each with a line that begins with >

Any environment with torch, transformers and peft will do. A request has `base`, `auto` (the Auto class), `more` (its
further arguments) and `adapter`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file

from adapter_doctor.placement import is_echo

WEIGHTS = "adapter_model.safetensors"


@dataclass
class Truth:
    raised: str = ""
    landed: int = 0
    ignored: int = 0
    left: int = 0
    overwritten: int = 0
    forward: str = ""  # what the first pass with a learnt prompt raises: one of any size loads

    @property
    def works(self) -> bool:
        return not (self.raised or self.ignored or self.left or self.overwritten)


def bits(tensor: Any) -> Any:
    return tensor.detach().float().contiguous().view(torch.int32).numpy().ravel()


def truth(base: Any, folder: Path) -> Truth:
    """What PEFT does, by values: whose of the file's are in the model, which adapter parameters hold none of them."""
    file = load_file(folder / WEIGHTS)
    before = {name: bits(parameter).copy() for name, parameter in base.named_parameters()}
    try:
        model = peft.PeftModel.from_pretrained(base, folder)
    except Exception as error:
        return Truth(raised=f"{type(error).__name__}: {str(error)[:100]}")
    forward = refusal_to_run(model) if model.active_peft_config.is_prompt_learning else ""
    saved = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    names = {name.replace(".base_layer", "").replace(".original_module", ""): parameter
             for name, parameter in model.get_base_model().named_parameters()}  # fmt: skip
    changed = [name for name, old in before.items() if name in names and not np.array_equal(bits(names[name]), old)]
    # Biases and norms that the config asks to train are saved with the adapter: they are no overwriting.
    kept = {key.replace(".base_layer", "") for key in saved}
    overwritten = [name for name in changed if not any(key.endswith(f".{name}") for key in kept)]
    present = np.unique(
        np.concatenate([bits(value) for value in [*saved.values(), *(names[name] for name in overwritten)]])
    )
    given = np.unique(np.concatenate([bits(value) for value in file.values()] or [np.zeros(0, np.int32)]))

    def inside(value: Any, pool: Any) -> bool:
        own = bits(value)
        own = own[own != 0]
        return bool(len(own)) and float(np.isin(own, pool).mean()) > 0.9

    # PEFT saves biases of modules that are saved whole up to three times; the copies do nothing while the adapter is on.
    twins = Counter(value.numpy().tobytes() for value in file.values())  # of shared tensors the values tell nothing
    landed = [
        key for key, value in file.items()
        if is_echo(key, file)
        or (kept_there(saved.get(key), value) if twins[value.numpy().tobytes()] > 1 else inside(value, present))
    ]  # fmt: skip
    left = [key for key, value in saved.items() if not inside(value, given) and not is_echo(key, saved)]
    return Truth("", len(landed), len(file) - len(landed), len(left), len(overwritten), forward)


def kept_there(saved: Any, value: Any) -> bool:
    """Whether PEFT would save the very values at this name again; a shape that it changes on loading is no matter."""
    return saved is not None and (saved.shape != value.shape or bool(np.array_equal(bits(saved), bits(value))))


def refusal_to_run(model: Any) -> str:
    """What a forward pass raises; empty where it raises nothing."""
    tokens = {"input_ids": torch.arange(3, 9)[None]}
    if model.config.is_encoder_decoder:
        tokens["decoder_input_ids"] = tokens["input_ids"]
    if model.active_peft_config.peft_type == "MULTITASK_PROMPT_TUNING":
        tokens["task_ids"] = torch.zeros(1, dtype=torch.long)
    try:
        with torch.no_grad():
            model.eval()(**tokens)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    return ""


def load(folder: str | Path, auto: str, more: dict[str, Any]) -> Any:
    """The base with its weights."""
    return getattr(transformers, auto).from_pretrained(folder, **more)


def main() -> None:
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        request = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            try:
                base = load(request["base"], request["auto"], request["more"])
            except Exception as error:
                answer = {"unloadable": f"{type(error).__name__}: {str(error)[:200]}"}
            else:
                answer = asdict(truth(base, Path(request["adapter"])))
        print(">" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
