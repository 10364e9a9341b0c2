"""`fix`: every repairable defect on several architectures, and the mended copy answers as the unbroken adapter did."""

from __future__ import annotations

import copy
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file

from adapter_doctor import fix
from adapter_doctor.loading.process import LoadingChild

WEIGHTS, PICKLE, CONFIG = "adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"
State = dict[str, torch.Tensor]
BODIES = ("llama", "gpt2", "phi3", "t5", "gpt-neox", "bert")


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    """One loading process for the whole module: its import takes far longer than any of the loads."""
    with LoadingChild() as one:
        yield one


class Clinic:
    """Tiny bases, a healthy adapter for each, and what the two together answer."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._models: dict[str, Any] = {}
        self._answers: dict[Path, torch.Tensor] = {}

    def base(self, name: str) -> Path:
        folder = self.root / name
        if not folder.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tiny.by_name(name).build().save_pretrained(folder)
        return folder

    def model(self, name: str) -> Any:
        if name not in self._models:
            recipe = tiny.by_name(name)
            labels = recipe.sizes.get("num_labels")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._models[name] = getattr(transformers, recipe.auto).from_pretrained(
                    self.base(name), **({"num_labels": labels} if labels else {})
                )
        return copy.deepcopy(self._models[name])

    def healthy(self, name: str, **settings: Any) -> Path:
        """A trained LoRA on the linear layers of a base; in two of them the rank and alpha are their own."""
        folder = self.root / f"{name}-{'-'.join(f'{key}={value}' for key, value in settings.items())}-healthy"
        if not folder.exists():
            recipe = tiny.by_name(name)
            chosen = {"r": 4, "lora_alpha": 16, "target_modules": list(recipe.leaves[:3]), "task_type": recipe.task}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(3)
                model = peft.get_peft_model(self.model(name), peft.LoraConfig(**{**chosen, **settings}))
                tiny.train_by_chance(model)
                model.save_pretrained(folder)
            (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n")
        return folder

    def answer(self, name: str, adapter: Path) -> torch.Tensor:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model = peft.PeftModel.from_pretrained(self.model(name), adapter).eval()
            tokens = torch.arange(3, 15).reshape(2, 6)
            more = {"decoder_input_ids": tokens} if name == "t5" else {}
            output: torch.Tensor = model(input_ids=tokens, **more).logits
            return output

    def same_answer(self, name: str, healthy: Path, mended: Path) -> bool:
        """Whether both answer alike in float32; the same tensors under the same config need not be asked."""
        one, other = (json.loads((folder / CONFIG).read_text()) for folder in (healthy, mended))
        first, second = load_file(healthy / WEIGHTS), load_file(mended / WEIGHTS)
        if one == other and first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first):  # fmt: skip
            return True
        if healthy not in self._answers:
            self._answers[healthy] = self.answer(name, healthy)
        return bool(torch.allclose(self._answers[healthy], self.answer(name, mended), atol=1e-5, rtol=0))


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    return Clinic(tmp_path_factory.mktemp("clinic"))


# ------------------------------------------------------------------------------------------------------- defects


def rename(change: Callable[[str], str]) -> Callable[[Path], None]:
    def hurt(folder: Path) -> None:
        save(folder, {change(key): value for key, value in load_file(folder / WEIGHTS).items()})

    return hurt


def configured(**fields: Any) -> Callable[[Path], None]:
    def hurt(folder: Path) -> None:
        raw = json.loads((folder / CONFIG).read_text())
        raw |= fields
        (folder / CONFIG).write_text(json.dumps({key: value for key, value in raw.items() if value != "gone"}))

    return hurt


def named(key: str, name: str) -> str:
    return re.sub(r"(\.lora_[AB])\.", rf"\1.{name}.", key)


def save(folder: Path, state: State) -> None:
    save_file(state, folder / WEIGHTS, metadata={"format": "pt", "kept": "as it is"})


def as_pickle(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    turned = {key: value.t().contiguous().t() if value.ndim == 2 and number % 2 else value for number, (key, value) in enumerate(state.items())}  # fmt: skip
    torch.save(turned, folder / PICKLE)
    (folder / WEIGHTS).unlink()


def as_shards(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    names = sorted(state)
    for number in range(3):
        save_file({key: state[key] for key in names[number::3]}, folder / f"adapter_model-0000{number + 1}-of-00003.safetensors")  # fmt: skip
    (folder / WEIGHTS).unlink()


def transposed(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    save(folder, {key: value.t().contiguous() if ".lora_" in key else value for key, value in state.items()})


def narrowed(folder: Path) -> None:
    raw = json.loads((folder / CONFIG).read_text())
    configured(target_modules=sorted(raw["target_modules"])[:1])(folder)


def all_of(*hurts: Callable[[Path], None]) -> Callable[[Path], None]:
    def hurt(folder: Path) -> None:
        for one in hurts:
            one(folder)

    return hurt


PREFIX = "base_model.model."
INNER = len(PREFIX)
DEFECTS: dict[str, Callable[[Path], None]] = {
    "compiled": rename(lambda key: f"{PREFIX}_orig_mod.{key[INNER:]}"),
    "compiled outside": rename(lambda key: f"_orig_mod.{key}"),
    "sharded by FSDP": rename(lambda key: key.replace(".lora_", "._fsdp_wrapped_module.lora_")),
    "data parallel": rename(lambda key: f"{PREFIX}module.{key[INNER:]}"),
    "adapter's name": rename(lambda key: named(key, "mine")),
    "adapter's name, tolerated": rename(lambda key: named(key, "default")),
    "doubled prefix": rename(lambda key: PREFIX + key),
    "no prefix": rename(lambda key: key[INNER:]),
    "half a prefix": rename(lambda key: "base_model." + key[INNER:]),
    "a level more": rename(lambda key: f"{PREFIX}language_model.{key[INNER:]}"),
    "a level renamed": rename(lambda key: re.sub(r"\.(\d+)\.", r".\1.inner.", key, count=1)),
    "pickle": as_pickle,
    "shards": as_shards,
    "transposed": transposed,
    "wrong r": configured(r=16),
    "r as text": configured(r="4"),
    "r lost": configured(r="gone"),
    "targets narrowed": narrowed,
    "targets of another model": configured(target_modules=["wqkv"]),
    "targets lost": configured(target_modules="gone"),
    "type lost": configured(peft_type="gone"),
    "pattern without end": configured(target_modules="(("),
    "several at once": all_of(rename(lambda key: f"_orig_mod.{PREFIX}{named(key, 'mine')}"), configured(r=2), narrowed),
}


# Other forms of a defect that is in the table for every body: two bodies will do.
VARIANTS = {
    "compiled outside", "sharded by FSDP", "half a prefix", "r as text", "r lost", "targets of another model",
    "targets lost", "pattern without end",
}  # fmt: skip
CASES = [(defect, name) for defect in DEFECTS for name in (BODIES if defect not in VARIANTS else ("llama", "t5"))]


@pytest.mark.parametrize(("defect", "name"), CASES)
def test_mended_copy_answers_as_the_unbroken_adapter(
    defect: str, name: str, clinic: Clinic, child: LoadingChild, tmp_path: Path
) -> None:
    healthy = clinic.healthy(name)
    broken, mended = tmp_path / "broken", tmp_path / "mended"
    shutil.copytree(healthy, broken)
    DEFECTS[defect](broken)
    before = contents(broken)

    repair = fix(clinic.base(name), broken, mended, child=child, cache=False)

    assert repair.state == "mended", str(repair)
    cause = repair.before.cause
    # A wrong value is mended only where it is that of `r`.
    assert cause is None or cause.rule.repairable or cause.hits[0].repairable or cause.rule.code == "AD107"
    assert repair.after is not None
    assert repair.after.landed is not None
    assert repair.after.landed["landed"] == repair.after.landed["in_file"] == len(load_file(healthy / WEIGHTS))
    assert repair.exit_code == 0
    assert contents(broken) == before
    assert clinic.same_answer(name, healthy, mended)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
