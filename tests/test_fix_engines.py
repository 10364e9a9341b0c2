"""`fix --for`: the copy answers as the original does under PEFT, and the engine's profile has nothing against it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_fix import CONFIG, WEIGHTS, Clinic
from typer.testing import CliRunner

from adapter_doctor import fix
from adapter_doctor.cli import application
from adapter_doctor.errors import DoctorError
from adapter_doctor.loading.process import LoadingChild
from adapter_doctor.repair import gguf

UNEVEN = {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"k_proj": 3}}
MENDABLE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("sglang", {"use_rslora": True}),
    ("sglang", {"use_rslora": True, **UNEVEN}),
    ("sglang", {"target_modules": ["q_proj"]}),
    ("sglang", {"target_modules": ["k_proj", "up_proj"]}),
    ("sglang", {"target_modules": r".*\.(q|v)_proj"}),
    ("vllm@0.31.0", UNEVEN),
    ("tgi", {"r": 4}),
    ("tgi", {"r": 8, "layers_to_transform": [0, 2]}),
    ("lorax", {"r": 12, "use_rslora": True}),
    ("llama.cpp", {"use_rslora": True, "target_modules": ["q_proj", "v_proj", "lm_head"]}),
    ("tensorrt-llm", {"alpha_pattern": {"k_proj": 3}}),
    ("openvino-genai", {"lora_alpha": 7}),
)


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    with LoadingChild() as one:
        yield one


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    return Clinic(tmp_path_factory.mktemp("engines"))


def difference(clinic: Clinic, one: Path, other: Path, base: str = "llama") -> float:
    return float((clinic.answer(base, one) - clinic.answer(base, other)).abs().max())


@pytest.mark.parametrize(("engine", "settings"), MENDABLE, ids=[f"{name} {chosen}" for name, chosen in MENDABLE])
def test_copy_is_honoured_and_answers_as_the_original(
    clinic: Clinic, child: LoadingChild, tmp_path: Path, engine: str, settings: dict[str, Any]
) -> None:
    adapter = clinic.healthy("llama", **settings)
    repair = fix(clinic.base("llama"), adapter, tmp_path / "copy", for_engine=engine, child=child)

    assert repair.before.cause is not None
    assert repair.before.cause.rule.code.startswith("AD70")
    assert repair.state == "mended", repair.why
    assert repair.after is not None
    assert [(one.engine, one.outcome) for one in repair.after.serving] == [(engine.partition("@")[0], "served")]
    assert difference(clinic, adapter, tmp_path / "copy") < 1e-5


def test_half_precision_loses_nothing(clinic: Clinic, child: LoadingChild, tmp_path: Path) -> None:
    adapter = tmp_path / "half"
    shutil.copytree(clinic.healthy("llama", use_rslora=True, **UNEVEN), adapter)
    save_file({name: one.bfloat16() for name, one in load_file(adapter / WEIGHTS).items()}, adapter / WEIGHTS)
    repair = fix(clinic.base("llama"), adapter, tmp_path / "copy", for_engine="sglang", child=child)

    assert repair.state == "mended", repair.why
    assert difference(clinic, adapter, tmp_path / "copy") < 1e-5


def test_head_that_is_the_bases_own_is_taken_out(clinic: Clinic, child: LoadingChild, tmp_path: Path) -> None:
    adapter = tmp_path / "untrained-head"
    shutil.copytree(clinic.healthy("llama", modules_to_save=["lm_head"]), adapter)
    head = load_file(clinic.base("llama") / "model.safetensors")["lm_head.weight"]
    save_file({**load_file(adapter / WEIGHTS), "base_model.model.lm_head.weight": head}, adapter / WEIGHTS)
    repair = fix(clinic.base("llama"), adapter, tmp_path / "copy", for_engine="vllm", child=child)

    assert repair.state == "mended", repair.why
    assert "base_model.model.lm_head.weight" not in load_file(tmp_path / "copy" / WEIGHTS)
    assert difference(clinic, adapter, tmp_path / "copy") < 1e-5


EXPERTS = {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"], "target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize(
    ("engine", "settings", "plain"),
    [
        ("llama.cpp", EXPERTS, True),
        ("vllm", EXPERTS, True),
        ("sglang", {**EXPERTS, "rank_pattern": {"experts.gate_up_proj": 8, "v_proj": 2}}, False),
        ("llama.cpp", {"target_parameters": ["experts.down_proj"], "target_modules": ["q_proj"], "use_rslora": True}, True),
        ("llama.cpp", {"target_parameters": ["experts.gate_up_proj"], "target_modules": []}, True),
    ],
    ids=["llama.cpp", "vllm", "uneven ranks", "down alone", "gate and up alone"],
)  # fmt: skip
def test_stacked_experts_are_taken_apart(
    clinic: Clinic, child: LoadingChild, tmp_path: Path, engine: str, settings: dict[str, Any], plain: bool
) -> None:
    adapter = clinic.healthy("mixtral", **settings)
    repair = fix(clinic.base("mixtral"), adapter, tmp_path / "copy", for_engine=engine, child=child)

    assert repair.state == "mended", repair.why
    names = load_file(tmp_path / "copy" / WEIGHTS)
    assert all("experts.lora" not in name and "base_layer" not in name for name in names)
    assert any(".block_sparse_moe.experts.3.w" in name for name in names)
    assert plain == (json.loads((tmp_path / "copy" / CONFIG).read_text())["r"] == 4)
    assert difference(clinic, adapter, tmp_path / "copy", "mixtral") < 1e-5


def test_other_modules_stay_targeted_in_their_layers_alone(clinic: Clinic, child: LoadingChild, tmp_path: Path) -> None:
    adapter = clinic.healthy("mixtral", **{**EXPERTS, "target_modules": r".*layers\.1\.self_attn\.q_proj"})
    repair = fix(clinic.base("mixtral"), adapter, tmp_path / "copy", for_engine="llama.cpp", child=child)

    assert repair.state == "mended", repair.why
    assert difference(clinic, adapter, tmp_path / "copy", "mixtral") < 1e-5


def test_experts_beside_what_is_no_plain_pair_are_not_taken_apart(
    clinic: Clinic, child: LoadingChild, tmp_path: Path
) -> None:
    adapter = clinic.healthy("mixtral", **{**EXPERTS, "target_modules": ["q_proj", "embed_tokens"]})
    repair = fix(clinic.base("mixtral"), adapter, tmp_path / "copy", for_engine="llama.cpp", child=child)

    assert (repair.state, (tmp_path / "copy").exists()) == ("refused", False)
    assert "no factor of a plain pair" in repair.why


def test_stacked_experts_stay_where_the_engine_wants_them_so(
    clinic: Clinic, child: LoadingChild, tmp_path: Path
) -> None:
    for engine in ("transformers", "merge"):
        repair = fix(clinic.base("mixtral"), clinic.healthy("mixtral", **EXPERTS), tmp_path / "copy", for_engine=engine, child=child)  # fmt: skip
        assert repair.state == "healthy", (engine, repair.why)


@pytest.mark.parametrize("settings", [{"modules_to_save": ["lm_head"]}, {"use_dora": True}], ids=str)
def test_what_was_trained_is_never_taken_out(
    clinic: Clinic, child: LoadingChild, tmp_path: Path, settings: dict[str, Any]
) -> None:
    adapter = clinic.healthy("llama", **settings)
    repair = fix(clinic.base("llama"), adapter, tmp_path / "copy", for_engine="vllm", child=child)

    assert (repair.state, repair.exit_code) == ("refused", 1)
    assert any("merge" in line for line in repair.advice)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
def test_adapter_that_is_honoured_is_left_as_it_is(
    clinic: Clinic, child: LoadingChild, tmp_path: Path, engine: str
) -> None:
    repair = fix(clinic.base("llama"), clinic.healthy("llama"), tmp_path / "copy", for_engine=engine, child=child)

    assert repair.state == "healthy"
    assert not (tmp_path / "copy").exists()


def test_mlx_and_back_is_the_same_adapter(clinic: Clinic, child: LoadingChild, tmp_path: Path) -> None:
    adapter = clinic.healthy("llama", use_rslora=True, target_modules=["q_proj", "embed_tokens"], **UNEVEN)
    there = fix(clinic.base("llama"), adapter, tmp_path / "mlx", for_engine="mlx-lm", child=child)
    settings = json.loads((tmp_path / "mlx" / CONFIG).read_text("utf-8"))
    tensors = load_file(tmp_path / "mlx" / "adapters.safetensors")
    back = fix(clinic.base("llama"), tmp_path / "mlx", tmp_path / "peft", child=child)

    assert (there.state, back.state) == ("mended", "mended"), (there.why, back.why)
    assert sorted(one.name for one in (tmp_path / "mlx").iterdir()) == [CONFIG, "adapters.safetensors"]
    assert settings["lora_parameters"]["rank"] == 8
    assert {one.rpartition(".")[0] for one in tensors} == set(settings["lora_parameters"]["keys"])
    module = "model.layers.0.self_attn.q_proj"
    original = load_file(adapter / WEIGHTS)
    down, up = (original[f"base_model.model.{module}.lora_{half}.weight"] for half in "AB")
    update = settings["lora_parameters"]["scale"] * (tensors[f"{module}.lora_a"] @ tensors[f"{module}.lora_b"]).T
    assert torch.allclose(update, up @ down * 16 / 8**0.5, atol=1e-6)
    assert difference(clinic, adapter, tmp_path / "peft") < 1e-5


def test_mlx_gets_nothing_that_its_format_cannot_hold(clinic: Clinic, child: LoadingChild, tmp_path: Path) -> None:
    adapter = clinic.healthy("llama", modules_to_save=["lm_head"])
    repair = fix(clinic.base("llama"), adapter, tmp_path / "copy", for_engine="mlx-lm", child=child)

    assert repair.state == "refused"
    assert "MLX-LM cannot hold it" in repair.why
    assert not (tmp_path / "copy").exists()


def test_without_the_converter_ollama_gets_nothing(
    clinic: Clinic, child: LoadingChild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(gguf.FOLDER, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    repair = fix(clinic.base("llama"), clinic.healthy("llama"), tmp_path / "copy", for_engine="ollama", child=child)

    assert repair.state == "refused"
    assert "convert_lora_to_gguf.py is not on the PATH" in repair.why


def test_modelfile_names_the_base_by_a_path_that_holds_from_the_copys_folder(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ollama looks for `FROM` and `ADAPTER` from the Modelfile's own folder."""
    (tmp_path / gguf.CONVERTER).write_text("import sys; open(sys.argv[sys.argv.index('--outfile') + 1], 'w').close()")
    monkeypatch.setenv(gguf.FOLDER, str(tmp_path))
    base = clinic.base("llama")
    monkeypatch.chdir(base.parent)
    repair = fix(base.name, clinic.healthy("llama"), tmp_path / "copy", for_engine="ollama")

    assert repair.state == "mended", repair.why
    named = (tmp_path / "copy" / "Modelfile").read_text().splitlines()[0].removeprefix("FROM ")
    assert (tmp_path / "copy" / named / "config.json").is_file()


def test_several_engines_or_none_are_wrong_usage(clinic: Clinic, tmp_path: Path) -> None:
    with pytest.raises(DoctorError, match="for one engine"):
        fix(clinic.base("llama"), clinic.healthy("llama"), tmp_path / "copy", for_engine="all")
    arguments = [str(clinic.base("llama")), str(clinic.healthy("llama")), "--for", "vlm", "--dry-run"]
    assert CliRunner().invoke(application(), ["fix", *arguments]).exit_code == 2
