"""Compare what the vLLM profile foresees with vLLM's own loader, for random configs and key sets; by hand, not in CI.

    pip download vllm==0.33.0 --no-deps --no-binary :all:      # VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE=0.33.0
    python scripts/vllm_agreement.py vllm-0.33.0.tar.gz [--n 500] [--seed 0]

`PEFTHelper.from_dict(…).validate_legal(…)` and `LoRAModel.from_local_checkpoint(…)` run from the source distribution; the
engine around them (kernels, layers, configuration of the server) is stubbed. Counted as agreement: both refuse, and the
words that the profile quotes, if it quotes any, are in vLLM's error; or both accept, with the same scaling of every module and the same
number of tensors for modules that the model does not have.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.machinery
import json
import logging
import random
import re
import sys
import tarfile
import tempfile
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402 - found by the line above
import patient  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from adapter_doctor.doctor import check  # noqa: E402
from adapter_doctor.facts import AdapterConfig, Outlook  # noqa: E402
from adapter_doctor.formats.declared_ranks import scaling_of  # noqa: E402

REAL = ("vllm.lora.peft_helper", "vllm.lora.utils", "vllm.lora.lora_model", "vllm.lora.lora_weights")
MODELS = {
    "LlamaForCausalLM": ("llama", "llama"), "Qwen2ForCausalLM": ("qwen2", "qwen2"),
    "MistralForCausalLM": ("mistral", "mistral"),
}  # fmt: skip
LINEAR = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
"""Names of the linear layers in the three models' files."""


class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Everything of vLLM but the modules under test is a mock; those are executed from their files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name == "vllm" or name.startswith("vllm."):
            return importlib.machinery.ModuleSpec(name, self, is_package=name not in REAL)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        if spec.name in REAL:
            return None
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name, own=spec.name: _mock(own, name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__name__ in REAL:
            source = self.root.joinpath(*module.__name__.split(".")).with_suffix(".py")
            exec(compile(source.read_text("utf-8"), str(source), "exec"), module.__dict__)


def _mock(module: str, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name == "init_logger":
        return MagicMock()
    if name == "PIN_MEMORY" or name.startswith("is_pin_memory"):
        return False if name == "PIN_MEMORY" else (lambda *_: False)
    if name[0].isupper():
        return type(name, (), {})
    return MagicMock(name=f"{module}.{name}")


def unpack(archive: Path, folder: Path) -> Path:
    """The part of a source distribution that is needed."""
    wanted = re.compile(r"vllm-[^/]+/vllm/(lora/[^/]+|model_executor/models/(llama|qwen2|mistral))\.py")
    with tarfile.open(archive) as tar:
        members = [one for one in tar if wanted.fullmatch(one.name)]
        tar.extractall(folder, members, filter="data")
    return next(folder.glob("vllm-*"))


def expected_modules(root: Path, architecture: str) -> set[str]:
    """What `WorkerLoRAManager._load_adapter` makes of the class: packed names by their parts, and the embeddings."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(("llama", MODELS[architecture][1])):
        file = root / "vllm" / "model_executor" / "models" / f"{name}.py"
        if not file.exists():  # before 0.20 a Mistral was a Llama
            continue
        tree = ast.parse(file.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name.endswith("ForCausalLM"):
                if name != "llama" and not any("Llama" in ast.unparse(one) for one in node.bases):
                    found = {}
                for part in node.body:
                    if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) in (
                        "packed_modules_mapping",
                        "embedding_modules",
                    ):
                        found[ast.unparse(part.targets[0])] = ast.literal_eval(part.value)
    packed, embeddings = found["packed_modules_mapping"], found.get("embedding_modules", {})
    return {part for name in (*LINEAR, *embeddings) for part in packed.get(name, [name])}


# ------------------------------------------------------------------------------------------------------- cases

LEAVES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SIZES = {"q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64), "o_proj": (64, 64), "gate_proj": (128, 64),
         "up_proj": (128, 64), "down_proj": (64, 128)}  # fmt: skip


def random_config(dice: random.Random) -> dict[str, Any]:
    leaves = sorted(dice.sample(LEAVES, dice.randint(1, 7)))
    config: dict[str, Any] = {
        **patient.CONFIG, "r": dice.choice([1, 2, 4, 8, 16]), "lora_alpha": dice.choice([8, 16, 16.0, 32.5]),
        "target_modules": leaves, "use_rslora": dice.random() < 0.3,
    }  # fmt: skip
    changes: list[dict[str, Any]] = [
        {"use_dora": True}, {"bias": "lora_only"}, {"bias": "all"}, {"lora_bias": True}, {"r": 600}, {"r": 513},
        {"modules_to_save": ["lm_head"]}, {"modules_to_save": ["embed_tokens", "lm_head"]}, {"modules_to_save": []},
        {"init_lora_weights": dice.choice(["pissa", "pissa_niter_4", "olora", "corda", "loftq"])},
        {"init_lora_weights": dice.choice(["gaussian", "eva", "orthogonal", False])},
        {"alora_invocation_tokens": [4, 5]}, {"layer_replication": [[0, 4], [2, 4]]}, {"use_qalora": True},
        {"use_bdlora": {"nblocks": 2}}, {"target_modules": "all-linear"}, {"target_modules": None},
        {"target_modules": r".*\.(q|v)_proj"}, {"rank_pattern": {dice.choice(LEAVES): 32}},
        {"alpha_pattern": {dice.choice(LEAVES): 64}}, {"rank_pattern": {r"layers\.[01]\.self_attn\.q_proj": 4}},
        {"rank_pattern": {"q_proj": 640}}, {"trainable_token_indices": None}, {"fan_in_fan_out": True},
        {"modules_to_save": ["score"]},
    ]  # fmt: skip
    for change in dice.sample(changes, dice.choice([0, 0, 0, 0, 1, 1, 2])):
        config |= change
    if dice.random() < 0.06:
        config.pop(dice.choice(["r", "lora_alpha", "target_modules"]))
    if dice.random() < 0.05:
        config = {
            "peft_type": dice.choice(["IA3", "LOHA", "PROMPT_TUNING"]),
            "target_modules": leaves,
            "task_type": "CAUSAL_LM",
        }
    return {**config, "leaves": leaves}


def random_tensors(config: dict[str, Any], dice: random.Random) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    plain = AdapterConfig({key: value for key, value in config.items() if key in ("r", "rank_pattern")})
    from adapter_doctor.formats.declared_ranks import rank_of

    for layer in range(4):
        for leaf in config["leaves"]:
            part = "self_attn" if leaf in LEAVES[:4] else "mlp"
            module = f"model.layers.{layer}.{part}.{leaf}"
            rank = rank_of(plain, module)
            shapes[f"base_model.model.{module}.lora_A.weight"] = (rank, SIZES[leaf][1])
            shapes[f"base_model.model.{module}.lora_B.weight"] = (SIZES[leaf][0], rank)
            if config.get("use_dora"):
                shapes[f"base_model.model.{module}.lora_magnitude_vector"] = (SIZES[leaf][0],)
            if config.get("lora_bias"):
                shapes[f"base_model.model.{module}.lora_B.bias"] = (SIZES[leaf][0],)
            if config.get("bias") not in (None, "none"):
                shapes[f"base_model.model.{module}.base_layer.bias"] = (SIZES[leaf][0],)
    for saved in config.get("modules_to_save") or ():
        name = {"embed_tokens": "model.embed_tokens"}.get(saved, saved)
        shapes[f"base_model.model.{name}.weight"] = (2, 64) if saved == "score" else (320, 64)
    return mutated(shapes, int(config.get("r", 8)), dice)


def mutated(shapes: dict[str, tuple[int, ...]], rank: int, dice: random.Random) -> dict[str, tuple[int, ...]]:
    front = "base_model.model."
    first = next(iter(shapes)).split(".lora_")[0]
    added: list[dict[str, tuple[int, ...]]] = [
        {f"{front}model.embed_tokens.lora_embedding_A": (rank, 320), f"{front}model.embed_tokens.lora_embedding_B": (64, rank)},
        {f"{front}lm_head.lora_A.weight": (rank, 64), f"{front}lm_head.lora_B.weight": (320, rank)},
        {f"{front}lm_head.weight": (320, 64)}, {f"{front}model.embed_tokens.weight": (320, 64)},
        {f"{front}model.embed_tokens.token_adapter.trainable_tokens_delta": (1, 64)},
        {f"{front}model.layers.0.input_layernorm.weight": (64,)}, {f"{front}model.layers.0.self_attn.q_proj.bias": (64,)},
        {f"{front}model.layers.9.self_attn.q_proj.lora_A.weight": (rank, 64), f"{front}model.layers.9.self_attn.q_proj.lora_B.weight": (64, rank)},
        {f"{front}model.layers.0.self_attn.qkv_proj.lora_A.weight": (rank, 64), f"{front}model.layers.0.self_attn.qkv_proj.lora_B.weight": (128, rank)},
        {f"{front}transformer.h.0.attn.c_attn.lora_A.weight": (rank, 64), f"{front}transformer.h.0.attn.c_attn.lora_B.weight": (192, rank)},
    ]  # fmt: skip
    renames = [(r"\.weight$", ".default.weight"), (r"^base_model\.model\.", ""), (r"^base_model\.model\.", f"{front}_orig_mod."),
               (r"^base_model\.model\.model\.", f"{front}model.language_model."), (r"q_proj", "query")]  # fmt: skip
    if dice.random() < 0.2:
        for more in dice.sample(added, dice.randint(1, 2)):
            shapes |= more
    if dice.random() < 0.25:
        old, new = dice.choice(renames)
        shapes = {re.sub(old, new, name): shape for name, shape in shapes.items()}
    elif dice.random() < 0.05:
        shapes = {name: shape for name, shape in shapes.items() if name != f"{first}.lora_B.weight"}
    return shapes


# ------------------------------------------------------------------------------------------------------ judges


def asked(folder: Path, config: dict[str, Any], expected: set[str]) -> tuple[str, Any]:
    """vLLM's answer: an error's text, or the loaded modules with the scaling of each."""
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    try:
        helper = PEFTHelper.from_dict(dict(config))
        helper.validate_legal(types.SimpleNamespace(max_lora_rank=512, bias_enabled=False))
        model = LoRAModel.from_local_checkpoint(
            str(folder), expected, peft_helper=helper, lora_model_id=1, device="cpu", model_vocab_size=320
        )
        scalings = {}
        for name, lora in model.loras.items():
            scalings[name] = lora.scaling
            lora.optimize()
    except Exception as error:  # whatever vLLM raises is the answer
        return "refused", f"{type(error).__name__}: {error}"
    return "accepted", scalings


def compared(outlook: Outlook, answer: tuple[str, Any], config: dict[str, Any], known: set[str]) -> str:
    """``agrees``, ``abstains``, or what differs."""
    kind, said = answer
    unsure = any(one.outcome == "unknown" for one in outlook.effects)
    refused = [one for one in outlook.effects if one.outcome == "refused"]
    if kind == "refused":
        if not refused:
            return "abstains" if unsure else f"vLLM refuses ({said[:200]}), foreseen: {outlook.outcome}"
        quoted = [one for one in refused if all(part.strip() in said for part in one.message.split("…"))]
        return "agrees" if quoted else f"other words: {[one.message for one in refused]} against {said[:200]}"
    if refused:
        return f"vLLM accepts, foreseen: {[one.message or one.why for one in refused]}"
    lost = 2 * sum(name not in known for name in said)
    if any(one.trait == "lora-bias" for one in outlook.effects):  # 0.31 reads them, and keeps none
        lost += sum(name in known for name in said)
    if lost != outlook.dropped:
        return f"{lost} tensors have no module, foreseen: {outlook.dropped}"
    foreseen = next((one.factors for one in outlook.effects if one.trait == "scaling"), None) or (1.0, 1.0)
    ratios = [value / scaling_of(AdapterConfig(config), name) for name, value in said.items()]
    off = [ratio for ratio in ratios if abs(ratio - 1) > 1e-6] or [1.0]
    if abs(min(off) - foreseen[0]) > 1e-6 or abs(max(off) - foreseen[1]) > 1e-6:
        return f"scalings {min(off):.4g} to {max(off):.4g}, foreseen: {foreseen}"
    return "abstains" if unsure else "agrees"


def cases(n: int, seed: int, folder: Path) -> Iterator[tuple[Path, Path, str, dict[str, Any]]]:
    bases = {}
    for architecture, (model_type, _) in MODELS.items():
        place = folder / architecture
        place.mkdir()
        base, _ = patient.write(place)
        config = json.loads((base / "config.json").read_text("utf-8"))
        text = json.dumps({**config, "model_type": model_type, "architectures": [architecture]})
        (base / "config.json").write_text(text, encoding="utf-8")
        bases[architecture] = base
    for number in range(n):
        dice = random.Random(f"{seed}-{number}")
        config = random_config(dice)
        shapes = random_tensors(config, dice)
        del config["leaves"]
        adapter = folder / f"adapter-{number}"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        save_file(
            {name: np.full(shape, 0.01, np.float32) for name, shape in shapes.items()},
            adapter / "adapter_model.safetensors",
        )
        architecture = dice.choice(list(MODELS))
        yield bases[architecture], adapter, architecture, config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    version = re.search(r"(\d+(?:\.\d+)+)\.tar", options.archive.name)[1]  # type: ignore[index]
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        root = unpack(options.archive, Path(scratch))
        sys.meta_path.insert(0, Stubs(root))
        sys.modules.setdefault("regex", re)
        expected = {architecture: expected_modules(root, architecture) for architecture in MODELS}
        for base, adapter, architecture, config in cases(options.n, options.seed, Path(scratch)):
            report = check(base, adapter, load="no", values=False, cache=False, engines=[f"vllm@{version}"])
            answer = asked(adapter, config, expected[architecture])
            known = {
                f"model.layers.{layer}.{'self_attn' if leaf in LEAVES[:4] else 'mlp'}.{leaf}"
                for layer in range(4)
                for leaf in LEAVES
            }
            result = compared(report.serving[0], answer, config, known | {"model.embed_tokens", "lm_head"})
            counts[f"{answer[0]} by vLLM"] += 1
            counts[result if result in ("agrees", "abstains") else "differs"] += 1
            if result not in ("agrees", "abstains"):
                print(f"{adapter.name} {architecture}: {result}")
    print(f"vLLM {version}, {options.n} adapters, seed {options.seed}: {dict(counts)}")
    return 1 if counts["differs"] else 0


if __name__ == "__main__":
    sys.exit(main())
