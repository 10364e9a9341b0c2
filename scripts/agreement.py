"""Compare verdicts with PEFT: random bases, configs and mutations; the judge is `PeftModel.from_pretrained` itself.

    python scripts/agreement.py --n 200 --seed 1 [--types LORA,IA3,…] [--python ANOTHER/bin/python]

For each case a tiny base and an adapter are made, the adapter is mutated, loaded with real weights by PEFT, and the
values in the model are compared with those in the file: a tensor has landed when its values are in the model. The tool
judges the same folder twice, with `--load skeleton` and `--load no`. A static verdict that abstains is counted.

With `--python` the adapters are made here, and both PEFT's answer and the tool's are those of the other environment; of
every second config the fields that its PEFT does not know and that are at their defaults are taken out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import peft
import peft_truth
import tiny
import torch
from peft_truth import WEIGHTS, Truth
from safetensors.torch import load_file, save_file

from adapter_doctor import knowledge
from adapter_doctor.doctor import check
from adapter_doctor.loading.process import LoadingChild

CONFIG = "adapter_config.json"


# ------------------------------------------------------------------------------------------------------- cases


class Bases:
    """Tiny bases on disk, each made once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, recipe: tiny.Tiny, **sizes: Any) -> Path:
        tag = "-".join([recipe.name, *(f"{key}{value}" for key, value in sizes.items())])
        folder = self.root / "bases" / tag
        if not folder.exists():
            changed = tiny.Tiny(
                recipe.name, recipe.config, recipe.auto, recipe.task, recipe.leaves, {**recipe.sizes, **sizes}
            )
            changed.build().save_pretrained(folder)
        return folder

    def load(self, recipe: tiny.Tiny, folder: Path) -> Any:
        return peft_truth.load(folder, recipe.auto, more_for(recipe))


def more_for(recipe: tiny.Tiny) -> dict[str, Any]:
    return {"num_labels": recipe.sizes["num_labels"]} if "num_labels" in recipe.sizes else {}


class Judge:
    """PEFT's answer, of this environment or of another."""

    def __init__(self, python: str | None) -> None:
        command = [python, "-X", "utf8", str(Path(peft_truth.__file__))]
        self._asked = (
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) if python else None
        )

    def truth(self, recipe: tiny.Tiny, base: Path, adapter: Path) -> Truth:
        """Raises LookupError where the base itself does not load there."""
        if self._asked is None:
            return peft_truth.truth(peft_truth.load(base, recipe.auto, more_for(recipe)), adapter)
        assert self._asked.stdin is not None
        assert self._asked.stdout is not None
        request = {"base": str(base), "auto": recipe.auto, "more": more_for(recipe), "adapter": str(adapter)}
        self._asked.stdin.write(json.dumps(request) + "\n")
        self._asked.stdin.flush()
        answer = json.loads(next(line for line in self._asked.stdout if line.startswith(">"))[1:])
        if "unloadable" in answer:
            raise LookupError(answer["unloadable"])
        return Truth(**answer)


def random_lora(pick: random.Random, recipe: tiny.Tiny) -> dict[str, Any]:
    leaves = pick.sample(recipe.leaves, pick.randint(1, len(recipe.leaves)))
    targets: Any = leaves
    kind = pick.random()
    if kind < 0.15:
        targets = r".*\.(" + "|".join(leaves) + ")"
    elif kind < 0.3:
        targets = "all-linear"
    rank = pick.choice([1, 2, 4, 8])
    config: dict[str, Any] = {"r": rank, "lora_alpha": pick.choice([4, 8, 16]), "target_modules": targets}
    if pick.random() < 0.2:
        config["use_dora"] = True
    if pick.random() < 0.15:
        config["use_rslora"] = True
    if pick.random() < 0.15:
        config["rank_pattern"] = {pick.choice(leaves): pick.choice([2, 3])}
    if pick.random() < 0.1:
        config["alpha_pattern"] = {pick.choice(leaves): 32}
    if pick.random() < 0.1 and not isinstance(targets, str):
        config["layers_to_transform"] = pick.choice([[0], [1], 0, [0, 1]])
    if pick.random() < 0.1 and recipe.task == "CAUSAL_LM" and recipe.name.startswith(("llama", "qwen", "mistral")):
        config["modules_to_save"] = pick.choice([["lm_head"], ["embed_tokens"], ["norm"]])
    if pick.random() < 0.1:
        config["bias"] = pick.choice(["all", "lora_only"])
    if pick.random() < 0.05 and not config.get("use_dora") and config.get("bias", "none") == "none":
        config["lora_bias"] = True
    if pick.random() < 0.08 and not isinstance(targets, str):
        config["exclude_modules"] = [pick.choice(recipe.leaves)]
    return config


OTHER_TYPES: dict[str, dict[str, Any]] = {
    "IA3": {"feedforward_modules": []}, "LOHA": {"r": 4}, "LOKR": {"r": 4}, "HRA": {"r": 4}, "VERA": {"r": 4},
    "HIRA": {"r": 4}, "DELORA": {"r": 4}, "FOURIERFT": {"n_frequency": 20}, "MISS": {"r": 4}, "ADALORA": {"init_r": 4, "total_step": 10},
    "RANDLORA": {"r": 4}, "VBLORA": {"r": 4, "num_vectors": 8, "vector_length": 8}, "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "PREFIX_TUNING": {"num_virtual_tokens": 4}, "P_TUNING": {"num_virtual_tokens": 4}, "LN_TUNING": {},
}  # fmt: skip


def make_adapter(pick: random.Random, kind: str, recipe: tiny.Tiny, base: Any, folder: Path) -> None:
    cls = peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    if kind == "LORA":
        config = cls(task_type=recipe.task, **random_lora(pick, recipe))
    else:
        options = dict(OTHER_TYPES[kind])
        if "target_modules" in cls.__dataclass_fields__ and kind != "LN_TUNING":
            options["target_modules"] = pick.sample(recipe.leaves, pick.randint(1, min(3, len(recipe.leaves))))
        config = cls(task_type=recipe.task, **options)
    model = peft.get_peft_model(base, config)
    tiny.train_by_chance(model, seed=pick.randint(0, 10**6))
    model.save_pretrained(folder, save_embedding_layers=False)
    # What is made again from the base or a seed: left at init, it would have the very values of the file.
    made_again = {"DELORA": ("w_norm",), "RANDLORA": ("randlora_A", "randlora_B"), "VERA": ("vera_A", "vera_B")}.get(
        kind
    )
    if made_again:
        state = load_file(folder / WEIGHTS)
        state = {key: value * 1.01 if any(one in key for one in made_again) else value for key, value in state.items()}
        save_file(state, folder / WEIGHTS)


# --------------------------------------------------------------------------------------------------- mutations


def keys_edited(change: Any) -> Any:
    def mutate(pick: random.Random, folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        save_file({key: value.contiguous() for key, value in change(pick, dict(state)).items()}, folder / WEIGHTS)

    return mutate


def rename_some(pick: random.Random, state: dict[str, Any]) -> dict[str, Any]:
    chosen = set(pick.sample(sorted(state), max(1, len(state) // pick.choice([1, 2, 4]))))
    old, new = pick.choice([
        ("base_model.model.", "base_model.model._orig_mod."), ("base_model.model.", "base_model.model.base_model.model."),
        ("base_model.model.", ""), ("base_model.model.", "module.base_model.model."), ("model.", "model.model."), (".weight", ".default.weight"),
        (".weight", ".other.weight"), ("layers.1.", "layers.7."), ("lora_A", "lora_Q"), ("model.layers", "layers"),
    ])  # fmt: skip
    return {key.replace(old, new, 1) if key in chosen else key: value for key, value in state.items()}


def drop_some(pick: random.Random, state: dict[str, Any]) -> dict[str, Any]:
    for key in pick.sample(sorted(state), min(len(state) - 1, pick.choice([1, 1, 2, len(state) // 2])) or 0):
        del state[key]
    return state


def add_some(pick: random.Random, state: dict[str, Any]) -> dict[str, Any]:
    key = pick.choice(sorted(state))
    name = pick.choice([
        key.replace(".0.", ".9."), key.replace("base_model.model.", "base_model.model.extra."),
        "base_model.model.model.norm.weight", "base_model.model.model.layers.0.self_attn.q_proj.weight", "stray",
        key.replace("lora_A", "lora_magnitude_vector").removesuffix(".weight"),
    ])  # fmt: skip
    shape = (32, 32) if "q_proj.weight" in name else (32,) if name.endswith("norm.weight") else state[key].shape
    return {**state, name: torch.randn(shape)}


def reshape_one(pick: random.Random, state: dict[str, Any]) -> dict[str, Any]:
    key = pick.choice(sorted(state))
    value = state[key]
    how = pick.choice(["transpose", "wider", "empty"])
    if how == "transpose" and value.dim() == 2:
        state[key] = value.T.contiguous()
    elif how == "empty":
        state[key] = torch.empty(0)
    else:
        state[key] = torch.cat([value, value])
    return state


def config_edited(change: Any) -> Any:
    def mutate(pick: random.Random, folder: Path) -> None:
        raw = json.loads((folder / CONFIG).read_text())
        change(pick, raw)
        (folder / CONFIG).write_text(json.dumps(raw))

    return mutate


def edit_field(pick: random.Random, raw: dict[str, Any]) -> None:
    field, value = pick.choice([
        ("r", 16), ("r", 3), ("target_modules", ["q_proj"]), ("target_modules", ["nothing"]), ("target_modules", None),
        ("use_dora", True), ("use_dora", False), ("rank_pattern", {}), ("rank_pattern", {"q_proj": 5}), ("bias", "all"),
        ("bias", "none"), ("modules_to_save", None), ("modules_to_save", ["lm_head"]), ("layers_to_transform", [0]),
        ("exclude_modules", ["q_proj"]), ("target_modules", "all-linear"), ("target_modules", r".*proj"), ("lora_bias", True),
        ("peft_type", "LOHA"), ("target_modules", ["layers"]), ("target_modules", ["proj"]),
    ])  # fmt: skip
    if field in raw or raw.get("peft_type") == "LORA":
        raw[field] = value


def remove_field(pick: random.Random, raw: dict[str, Any]) -> None:
    raw.pop(
        pick.choice(["r", "target_modules", "rank_pattern", "use_dora", "bias", "modules_to_save", "lora_alpha"]), None
    )


MUTATIONS = {
    "none": lambda _pick, _folder: None, "rename": keys_edited(rename_some), "drop": keys_edited(drop_some),
    "add": keys_edited(add_some), "reshape": keys_edited(reshape_one), "edit": config_edited(edit_field),
    "remove": config_edited(remove_field),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------ compare


def without_newer_fields(folder: Path, version: str) -> None:
    """Take out of the config what that PEFT does not know, where it is at its default: as if it had been saved there."""
    raw = json.loads((folder / CONFIG).read_text())
    known = {field.name: field.default for field in fields(peft.PEFT_TYPE_TO_CONFIG_MAPPING[raw["peft_type"]])}
    for name in knowledge.unknown_fields(raw, version):
        if not raw[name] or raw[name] == known.get(name) or name == "peft_version":
            del raw[name]
    if "peft_version" in raw:
        raw["peft_version"] = version
    (folder / CONFIG).write_text(json.dumps(raw))


def disagreement(real: Truth, report: Any) -> str:
    """How a loaded report differs from the truth; empty where it does not."""
    fine = report.verdict == "compatible"
    if real.forward and report.verdict == "incompatible":
        return ""  # it loads, and cannot be used
    if report.verdict == "undetermined":
        return f"undetermined: {report.open_questions[:1]}"
    if fine != real.works and not any(one.rule.code in ("AD213", "AD214", "AD118", "AD120") for one in report.findings):
        return f"verdict {report.verdict}, PEFT: {real}"
    if real.raised or report.landed is None:
        return ""
    counts = (
        report.landed["in_file"] - report.landed["ignored"],
        report.landed["ignored"],
        report.landed["left_at_init"],
        report.landed["overwritten_base"],
    )
    expected = (real.landed, real.ignored, real.left, real.overwritten)
    return "" if counts == expected else f"counts {counts}, PEFT {expected}"


def keep(place: Path | None, name: str, adapter: Path, base: Path) -> None:
    if place is not None:
        shutil.copytree(adapter, place / name, dirs_exist_ok=True)
        shutil.copytree(base, place / f"{name}-base", dirs_exist_ok=True)


def installed(python: str) -> dict[str, str]:
    """The versions of that environment."""
    code = "import json, peft, transformers; print(json.dumps({'peft': peft.__version__, 'transformers': transformers.__version__}))"
    answer: dict[str, str] = json.loads(subprocess.run([python, "-c", code], capture_output=True, check=True).stdout)
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--types", default="LORA,LORA,LORA," + ",".join(OTHER_TYPES))
    parser.add_argument("--python", help="the interpreter of another environment, whose PEFT is asked")
    parser.add_argument("--keep", type=Path, help="copy the folders of disagreements here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    tally: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name, LoadingChild(options.python) as child:
        root = Path(name)
        bases, judge = Bases(root), Judge(options.python)
        there = installed(options.python) if options.python else {}
        for number in range(options.n):
            pick = random.Random(options.seed * 1_000_003 + number)
            kind, recipe = pick.choice(options.types.split(",")), pick.choice(tiny.ARCHITECTURES)
            folder, home = root / "adapter", bases.folder(recipe)
            shutil.rmtree(folder, ignore_errors=True)
            try:
                make_adapter(pick, kind, recipe, bases.load(recipe, home), folder)
            except Exception as error:  # this method does not take this architecture: no adapter, no case
                tally[f"not made: {kind}"] += 1
                tally["not made"] += 1
                if os.environ.get("SHOW_UNMADE"):
                    print("not made", kind, recipe.name, type(error).__name__, str(error)[:100])
                continue
            mutation = pick.choice(sorted(MUTATIONS))
            if there and number % 2:
                without_newer_fields(folder, there["peft"])
            MUTATIONS[mutation](pick, folder)
            other = pick.random() < 0.1
            if other:
                recipe = pick.choice([one for one in tiny.ARCHITECTURES if one.task == recipe.task])
                home = bases.folder(recipe)
            label = f"seed {options.seed} case {number}: {kind} on {recipe.name}, {mutation}{', other base' if other else ''}"
            report = check(home, folder, child=child, time_limit=120, python=options.python)
            tally["cases"] += 1
            try:
                real = judge.truth(recipe, home, folder)
            except LookupError as error:
                tally["base does not load there"] += 1
                trouble = f"verdict {report.verdict}, the base: {error}" if report.verdict == "compatible" else ""
                real = Truth(raised=str(error))
            else:
                trouble = disagreement(real, report)
            tally["works" if real.works else "broken"] += 1
            tally["loads, and its first pass fails unforeseen"] += bool(real.forward and report.verdict == "compatible")
            if trouble:
                tally["DISAGREE"] += 1
                print(
                    f"DISAGREE {label}: {trouble} [{real.raised}] {[one.rule.code for one in report.findings]} {[str(x) for x in report.diagnosis.crashed][:1]}",
                    flush=True,
                )
                keep(options.keep, f"{options.seed}-{number}", folder, home)
            if options.python:
                continue
            static = check(home, folder, load="no")
            group = "LORA" if kind == "LORA" else "other"
            tally[f"static {group}"] += 1
            if static.verdict == "undetermined":
                tally[f"static {group} abstains"] += 1
                tally[f"  abstains: {static.open_questions[0][1][:90]}"] += 1
            elif (static.verdict == "compatible") != (report.verdict == "compatible"):
                tally["STATIC DISAGREE"] += 1
                print(
                    f"STATIC   {label}: {static.verdict}, PEFT: {real} {[one.rule.code for one in static.findings]}",
                    flush=True,
                )
                keep(options.keep, f"{options.seed}-{number}", folder, home)
            causes = [one for one in report.findings if one.rule.severity == 3 and one.consequence_of is None]
            if len(causes) > 1:
                tally["several causes"] += 1
    if there:
        print(f"in the environment of peft {there['peft']}, transformers {there['transformers']}:")
    for key, count in sorted(tally.items()):
        print(f"{count:6} {key}")
    raise SystemExit(1 if tally["DISAGREE"] or tally["STATIC DISAGREE"] else 0)


if __name__ == "__main__":
    main()
