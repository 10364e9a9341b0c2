"""Really run engines on tiny adapters and compare with PEFT's logits; by hand, not in CI.

    LLAMA_CPP=~/llama.cpp python scripts/engines.py llama.cpp --python VENV/bin/python     # needs llama-cpp-python
    python scripts/engines.py mlx-lm --python VENV/bin/python                              # needs mlx and mlx-lm
    python scripts/engines.py transformers                                                 # load_adapter

`VENV` holds the engine; this environment has torch and PEFT. For llama.cpp and MLX-LM each adapter goes through
`fix --for`, and the engine must answer within 1e-2 of PEFT. For transformers' `load_adapter` what happens must be what the
profile says: equal to `PeftModel`, other outputs, or an exception.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402 - the paths above come first

TOKENS = [3, 17, 5, 42, 9, 77, 1, 64]
QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]
CONVERTED: tuple[dict[str, Any], ...] = (
    {}, {"r": 1}, {"r": 16, "lora_alpha": 7}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 8}},
    {"alpha_pattern": {"k_proj": 3}}, {"use_rslora": True, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 5}},
    {"target_modules": "all-linear"}, {"target_modules": r".*\.(up|down)_proj"}, {"layers_to_transform": [0, 2]},
    {"target_modules": [*QKVO, "lm_head"]}, {"target_modules": ["q_proj", "embed_tokens"]},
    {"target_modules": ["o_proj"], "lora_alpha": 0.5}, {"target_modules": ["gate_proj"], "r": 3},
)  # fmt: skip
"""Settings of the adapters that are converted, on a Llama and on a Qwen2."""
BASES = ("llama", "qwen2")


def peft_model(base: Path, adapter: Path | None, auto: str = "AutoModelForCausalLM", **more: Any) -> Any:
    import peft
    import transformers

    model = getattr(transformers, auto).from_pretrained(base, **more)
    return (model if adapter is None else peft.PeftModel.from_pretrained(model, adapter)).eval()


def logits(model: Any) -> np.ndarray[Any, Any]:
    import torch

    more = {"decoder_input_ids": torch.tensor([[0, 4, 7]])} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        values: np.ndarray[Any, Any] = model(input_ids=torch.tensor([TOKENS]), **more).logits[0].float().numpy()
    return values


def made(root: Path, name: str, base: Path, settings: dict[str, Any]) -> Path:
    """A LoRA of these settings, trained by chance."""
    import peft
    import tiny
    import torch

    recipe = tiny.by_name(name)
    torch.manual_seed(5)
    kind = settings.get("kind", "LoraConfig")
    chosen: dict[str, Any] = {"task_type": recipe.task, **{key: one for key, one in settings.items() if key != "kind"}}
    if kind == "LoraConfig":
        chosen = {"r": 4, "lora_alpha": 16, "target_modules": list(recipe.leaves[:3]), **chosen}
    more = {"num_labels": recipe.sizes["num_labels"]} if "num_labels" in recipe.sizes else {}
    model = peft.get_peft_model(peft_model(base, None, recipe.auto, **more), getattr(peft, kind)(**chosen))
    tiny.train_by_chance(model)
    folder = root / f"adapter-{name}-{len(list(root.iterdir()))}"
    model.save_pretrained(folder)
    return folder


def base_of(root: Path, name: str) -> Path:
    import tiny

    folder = root / f"base-{name}"
    if not folder.exists():
        tiny.by_name(name).build().save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text("utf-8"))
        theta = (config.get("rope_parameters") or {}).get("rope_theta")
        if theta is not None:  # MLX-LM and llama.cpp look for it where transformers 4 had it, and have defaults
            (folder / "config.json").write_text(json.dumps({**config, "rope_theta": theta}), encoding="utf-8")
    return folder


# ---------------------------------------------------------------------------------------- engines that are converted


def converted(engine: str, python: str) -> int:
    from adapter_doctor import fix
    from adapter_doctor.loading.process import LoadingChild

    worst, failed, wanted = 0.0, 0, []
    with tempfile.TemporaryDirectory() as scratch, LoadingChild() as child:
        root = Path(scratch)
        for name in BASES:
            base = base_of(root, name)
            model = _gguf_of(base, root / f"{name}.gguf") if engine == "llama.cpp" else base
            wanted.append((f"{name} alone", logits(peft_model(base, None)), str(model), ""))
            for settings in CONVERTED:
                adapter = made(root, name, base, settings)
                output = root / f"out-{adapter.name}"
                repair = fix(base, adapter, output, for_engine=engine, child=child, offline=True)
                title = f"{name} {settings}"
                if repair.state != "mended":
                    print(f"{title}: {repair.state}: {repair.why}")
                    failed += 1
                    continue
                place = output / f"{output.name}.gguf" if engine == "llama.cpp" else output
                wanted.append((title, logits(peft_model(base, adapter)), str(model), str(place)))
        requests = [{"model": model, "adapter": adapter} for _, _, model, adapter in wanted]
        (root / "requests.json").write_text(json.dumps(requests), encoding="utf-8")
        command = [python, __file__, engine, "--worker", str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr[-2000:])
            return 1
        for number, (title, expected, _, _) in enumerate(wanted):
            difference = float(np.abs(np.load(root / f"{number}.npy") - expected).max())
            worst = max(worst, difference)
            failed += difference > 1e-2
            print(f"{difference:.1e}  {title}")
    adapters = len(wanted) - len(BASES)
    print(f"{engine}: {adapters} adapters answered, largest difference from PEFT {worst:.1e}, {failed} failed")
    return 1 if failed else 0


def _gguf_of(base: Path, output: Path) -> Path:
    """The base as a GGUF file without a vocabulary, by llama.cpp's converter."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import convert_hf_to_gguf as one; from conversion import base\n"
        "none = lambda self: base.TextModel._set_vocab_none(self)\n"
        "def every(kind):\n"
        "    for sub in kind.__subclasses__(): sub.set_vocab = none; every(sub)\n"
        "load = one.get_model_class\n"
        "def loaded(*a, **k):\n"
        "    found = load(*a, **k); found.set_vocab = none; return found\n"
        "one.get_model_class = loaded\n"
        "sys.argv = ['convert', sys.argv[2], '--outfile', sys.argv[3], '--outtype', 'f32']; one.main()"
    )
    command = [sys.executable, "-c", program, os.environ["LLAMA_CPP"], str(base), str(output)]
    subprocess.run(command, check=True, capture_output=True)
    return output


def worker(engine: str, root: Path) -> int:
    """In the engine's environment: answer each request with a file of logits."""
    for number, request in enumerate(json.loads((root / "requests.json").read_text("utf-8"))):
        answer = (_llama_cpp if engine == "llama.cpp" else _mlx_lm)(request["model"], request["adapter"])
        np.save(root / f"{number}.npy", answer)
    return 0


def _llama_cpp(model: str, adapter: str) -> Any:
    import llama_cpp

    one = llama_cpp.Llama(
        model, lora_path=adapter or None, n_ctx=64, n_batch=64, logits_all=True, verbose=False, type_k=0, type_v=0,
        n_threads=1, n_gpu_layers=0,
    )  # fmt: skip
    one.eval(TOKENS)
    return np.array(one.scores[: len(TOKENS)])


def _mlx_lm(model: str, adapter: str) -> Any:
    import mlx.core as mx
    from mlx_lm.utils import load_adapters, load_model

    one, _ = load_model(Path(model))
    if adapter:
        one = load_adapters(one, adapter)
    one.eval()
    return np.array(one(mx.array([TOKENS]))[0].astype(mx.float32))


# -------------------------------------------------------------------------------------- transformers' load_adapter

LOADED: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("llama", one) for one in CONVERTED[:10]),
    ("llama", {"use_dora": True}), ("llama", {"use_dora": True, "use_rslora": True}), ("llama", {"lora_bias": True}),
    ("llama", {"modules_to_save": ["lm_head"]}), ("llama", {"modules_to_save": ["input_layernorm"]}),
    ("llama", {"target_modules": ["q_proj", "lm_head"]}), ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
    ("llama", {"trainable_token_indices": [3, 5]}), ("llama", {"alora_invocation_tokens": [5, 42]}),
    ("llama", {"layer_replication": [[0, 3], [1, 3]]}), ("qwen2", {"bias": "lora_only"}), ("qwen2", {"bias": "all"}),
    ("llama-tied", {"target_modules": ["q_proj", "lm_head"]}), ("gpt2", {}), ("t5", {}), ("llama-cls", {}), ("bert", {}),
    ("llama", {"kind": "IA3Config", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    ("llama", {"kind": "PromptTuningConfig", "num_virtual_tokens": 3}), ("llama", {"kind": "PrefixTuningConfig", "num_virtual_tokens": 3}),
)  # fmt: skip
BREAKS = (r"\.weight$ -> .default.weight", r"^base_model\.model\. -> ", r"layers\.0\. -> layers.9.")


def load_adapter() -> int:
    from adapter_doctor.doctor import check

    agreed, said, total = 0, [], 0
    with tempfile.TemporaryDirectory() as scratch:
        for title, name, base, adapter, like in _samples(Path(scratch)):
            import tiny

            recipe = tiny.by_name(name)
            more = {"num_labels": recipe.sizes["num_labels"]} if "num_labels" in recipe.sizes else {}
            report = check(base, adapter, load="no", cache=False, engines=["transformers"])
            foreseen = report.serving[0].outcome if report.serving else "unknown"
            try:
                model = peft_model(base, None, recipe.auto, **more)
                model.load_adapter(str(adapter))
                same = bool(
                    np.allclose(logits(model.eval()), logits(peft_model(base, like, recipe.auto, **more)), atol=1e-5)
                )
                found = "served" if same else "wrong"
            except (ValueError, RuntimeError, NotImplementedError, KeyError) as error:
                found = "refused"
                said.append(f"{title}: {error}"[:200])
            total += 1
            agreed += found == foreseen
            if found != foreseen:
                print(f"{title}: foreseen {foreseen}, found {found}; {[one.why for one in report.serving[0].effects]}")
    print(f"load_adapter: {total} adapters, {agreed} did what the profile says")
    return 0 if agreed == total else 1


def _samples(root: Path) -> Iterator[tuple[str, str, Path, Path, Path]]:
    """Title, recipe, base, adapter, and the adapter whose outputs are the trained ones."""
    import re
    import shutil

    from safetensors.torch import load_file, save_file

    for name, settings in LOADED:
        base = base_of(root, name)
        adapter = made(root, name, base, settings)
        yield f"{name} {settings}", name, base, adapter, adapter
    sound = made(root, "llama", base_of(root, "llama"), {})
    for number, edit in enumerate(BREAKS):
        old, _, new = edit.partition(" -> ")
        broken = root / f"broken-{number}"
        shutil.copytree(sound, broken)
        state = load_file(broken / "adapter_model.safetensors")
        save_file({re.sub(old, new, key): one for key, one in state.items()}, broken / "adapter_model.safetensors")
        yield f"names {edit}", "llama", base_of(root, "llama"), broken, sound


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["llama.cpp", "mlx-lm", "transformers"])
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the engine's environment")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.worker is not None:
        return worker(options.engine, options.worker)
    return load_adapter() if options.engine == "transformers" else converted(options.engine, options.python)


if __name__ == "__main__":
    sys.exit(main())
