"""The guard around PEFT's own saving: a sound adapter is saved as ever, one with an error leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import by_name, train_by_chance

from adapter_doctor import AdapterError, guard

WEIGHTS = "adapter_model.safetensors"
pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT and transformers have their own


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guard") / "base"
    by_name("llama").build().save_pretrained(folder)
    return folder


@pytest.fixture
def model(base: Path) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(base)
    adapted = get_peft_model(loaded, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    train_by_chance(adapted)
    return adapted


@pytest.fixture
def guarded(base: Path) -> Iterator[None]:
    with guard(base=base):
        yield


@pytest.mark.usefixtures("guarded")
def test_sound_adapter_is_saved_as_ever(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "guarded")
    guard_files = {path.name: path.read_bytes() for path in (tmp_path / "guarded").iterdir()}
    with guard() as inner:
        inner.remove()
    model.save_pretrained(tmp_path / "plain")

    assert guard_files == {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}


@pytest.mark.usefixtures("guarded")
def test_broken_adapter_is_not_saved_and_what_was_there_stays(model: Any, tmp_path: Path) -> None:
    import torch

    model.save_pretrained(tmp_path / "mine")
    before = (tmp_path / "mine" / WEIGHTS).read_bytes()
    with torch.no_grad():
        next(one for name, one in model.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(AdapterError, match="not-finite"):
        model.save_pretrained(tmp_path / "mine")
    with pytest.raises(AdapterError):
        model.save_pretrained(tmp_path / "new")

    assert (tmp_path / "mine" / WEIGHTS).read_bytes() == before
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("guarded")
def test_broken_adapter_is_not_pushed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    asked: list[str] = []

    def create_repo(_: Any, repo_id: str, **options: Any) -> Any:
        asked.append(repo_id)
        raise RuntimeError("no Hub here")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", create_repo)
    with pytest.raises(RuntimeError, match="no Hub here"):
        model.push_to_hub("me/sound")
    with torch.no_grad():
        next(one for name, one in model.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(AdapterError, match="not-finite"):
        model.push_to_hub("me/my-lora")

    assert asked == ["me/sound"]


def test_guard_is_taken_away_again(model: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    before = PeftModel.save_pretrained
    with guard():
        assert PeftModel.save_pretrained is not before
    assert PeftModel.save_pretrained is before
    standing = guard()
    assert PeftModel.save_pretrained is not before
    standing.remove()
    assert PeftModel.save_pretrained is before
