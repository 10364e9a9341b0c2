"""`inspect`: what an adapter is by its files, on healthy and broken ones, with and without a base, never with torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import patient
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from adapter_doctor import Inspection, inspect
from adapter_doctor.cli import application
from adapter_doctor.knowledge.bases import known_bases


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return patient.write(tmp_path)


def edit(folder: Path, name: str = "adapter_config.json", **fields: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **fields}), "utf-8")
    return folder


def retouch(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)
    return folder


def doubts(found: Inspection) -> str:
    return "\n".join(found.doubts)


# ------------------------------------------------------------------------------------------------ the adapter


def test_healthy_adapter_is_described_without_a_doubt(pair: tuple[Path, Path]) -> None:
    found = inspect(pair[1])

    assert (found.peft_type, found.task_type, found.dtypes) == ("LORA", "CAUSAL_LM", ("F32",))
    assert found.doubts == found.troubles == ()
    assert found.identity.sizes == {"hidden size": 64, "key/value width": 32, "layers": 4, "query width": 64}
    assert "llama" in found.identity.families
    assert [(one.rank, one.declared, one.alpha, one.scaling) for one in found.scalings] == [(8, 8, 16.0, 2.0)]
    assert found.exit_code == 0
    assert found.base is None
    assert found.merge is None


def test_a_base_that_the_table_lacks_is_still_told_by_family_and_size(tmp_path: Path) -> None:
    tensors = {}
    widths = {"q_proj": (640, 640), "k_proj": (320, 640), "v_proj": (320, 640), "o_proj": (640, 640)}
    for number in range(7):
        for leaf, (out, into) in widths.items():
            path = f"base_model.model.model.layers.{number}.self_attn.{leaf}"
            tensors[f"{path}.lora_A.weight"] = numpy.zeros((4, into), numpy.float16)
            tensors[f"{path}.lora_B.weight"] = numpy.zeros((out, 4), numpy.float16)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}', "utf-8")

    found = inspect(tmp_path).identity

    assert found.candidates.exact == ()
    assert found.sizes == {"hidden size": 640, "key/value width": 320, "layers": 7, "query width": 640}
    assert {"llama", "mistral", "qwen2"} <= set(found.families)
    assert "gpt2" not in found.families
    assert found.parameters == 7 * (2 * 640 * 640 + 2 * 320 * 640)


@pytest.mark.parametrize(
    ("path", "out", "says"),
    [
        ("transformer.encoder.layers.{}.self_attention.query_key_value", 4608, "modeling_chatglm.py"),
        ("transformer.h.{}.mixer.Wqkv", 7680, "modeling_phi.py"),
        ("transformer.h.{}.attn.c_attn", 2304, ""),  # GPT-2's, and Qwen's
        ("encoder.layers.{}.mlp.fc2", 768, ""),  # anybody's
        ("model.layers.{}.self_attn.query_key_value", 12288, ""),  # Persimmon's, and Phi's of transformers 4.36
        ("model.layers.{}.self_attn.q_proj", 4096, ""),
    ],
)
def test_names_of_remote_code_are_told_as_such(path: str, out: int, says: str, tmp_path: Path) -> None:
    into = 2560 if "mixer" in path else 768 if out < 4000 else 4096
    tensors = {}
    for number in range(12):
        name = f"base_model.model.{path.format(number)}"
        tensors[f"{name}.lora_A.weight"] = numpy.zeros((4, into), numpy.float16)
        tensors[f"{name}.lora_B.weight"] = numpy.zeros((out, 4), numpy.float16)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}', "utf-8")

    found = inspect(tmp_path)

    assert (f"as in {says}" in str(found)) == bool(says), str(found)
    assert [one["whose"].partition(",")[0] for one in found.to_dict()["made_for"]["remote_code"]] == [says] * bool(says)
    assert "other module names" in str(found) or not says


def test_another_vocabulary_is_told_from_another_base(tmp_path: Path) -> None:
    base = known_bases()["TinyLlama/TinyLlama-1.1B-Chat-v1.0"]
    tensors = {}
    for number in range(base.layers or 0):
        path = f"base_model.model.model.layers.{number}.self_attn.q_proj"
        tensors[f"{path}.lora_A.weight"] = numpy.zeros((1, 2048), numpy.uint8)
        tensors[f"{path}.lora_B.weight"] = numpy.zeros((2048, 1), numpy.uint8)
    tensors["base_model.model.model.embed_tokens.weight"] = numpy.zeros((32001, 2048), numpy.uint8)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1}', "utf-8")

    found = inspect(tmp_path).identity.candidates

    assert base.id not in found.exact
    assert base.id in found.but_vocabulary


def test_layers_left_out_on_purpose_do_not_hide_the_base(tmp_path: Path) -> None:
    tensors = {}
    for number in range(4):
        path = f"base_model.model.model.layers.{number}.mlp.up_proj"
        tensors[f"{path}.lora_A.weight"] = numpy.zeros((1, 4096), numpy.uint8)
        tensors[f"{path}.lora_B.weight"] = numpy.zeros((14336, 1), numpy.uint8)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "target_modules": ["up_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    assert inspect(tmp_path).identity.candidates.exact == ()

    edit(tmp_path, layers_to_transform=[0, 1, 2, 3])

    assert "meta-llama/Meta-Llama-3-8B" in inspect(tmp_path).identity.candidates.exact


def test_wrappers_in_names_do_not_hide_the_family(pair: tuple[Path, Path]) -> None:
    def wrapped(tensors: dict[str, Any]) -> dict[str, Any]:
        return {key.replace("base_model.model.", "base_model.model._orig_mod."): one for key, one in tensors.items()}

    retouch(pair[1], wrapped)

    assert "llama" in inspect(pair[1]).identity.families


def test_shapes_that_tell_nothing_are_said_to(tmp_path: Path) -> None:
    path = "base_model.model.model.layers.0.self_attn.k_proj.ia3_l"
    save_file({path: numpy.ones((32, 1), numpy.float32)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}', "utf-8")

    found = inspect(tmp_path)

    assert found.identity.candidates.exact == ()
    assert "so they do not tell" in str(found)


# ------------------------------------------------------------------------------------------------ scaling


def test_patterns_give_each_module_its_scaling(pair: tuple[Path, Path]) -> None:
    edit(pair[1], alpha_pattern={"q_proj": 32, r"layers\.0\.self_attn\.v_proj": 4})

    found = {(one.modules, one.count): one.scaling for one in inspect(pair[1]).scalings}

    assert found == {(("k_proj", "o_proj", "v_proj"), 11): 2.0, (("q_proj",), 4): 4.0, (("v_proj",), 1): 0.5}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"r": 16}, "rank 8 in the file, 16 in the config"),
        ({"use_rslora": True}, "takes alpha / r, 2 instead of 5.65685"),
        ({"alpha_pattern": {"up_proj": 4}}, "up_proj, which match none"),
        ({"rank_pattern": {"gate_proj": 4}}, "`rank_pattern` has gate_proj"),
    ],
)
def test_what_changes_the_scaling_unseen_is_named(pair: tuple[Path, Path], fields: dict[str, Any], said: str) -> None:
    assert said in doubts(inspect(edit(pair[1], **fields)))


def test_a_missing_alpha_is_said_and_never_guessed(pair: tuple[Path, Path]) -> None:
    path = pair[1] / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    del config["lora_alpha"]
    path.write_text(json.dumps(config), "utf-8")

    assert "`lora_alpha` is missing: PEFT takes 8" in doubts(inspect(pair[1]))


@pytest.mark.parametrize("value", ["sixteen", None, [16], True])
def test_a_senseless_alpha_or_rank_gives_no_scaling_and_no_traceback(pair: tuple[Path, Path], value: object) -> None:
    assert inspect(edit(pair[1], lora_alpha=value)).scalings[0].scaling is None
    assert inspect(edit(pair[1], lora_alpha=16, r=value)).scalings[0].scaling is None


# ------------------------------------------------------------------------------------------------ with a base


def test_healthy_pair_in_float32_merges_exactly(pair: tuple[Path, Path]) -> None:
    found = inspect(pair[1], pair[0])

    assert found.merging == ()
    assert found.merge == "exact"
    assert all(one.agrees for one in found.dimensions)
    assert found.exit_code == 0


def test_sizes_of_another_base_are_named(pair: tuple[Path, Path]) -> None:
    edit(pair[0], "config.json", num_key_value_heads=4, num_hidden_layers=6)

    found = inspect(pair[1], pair[0])

    assert [(one.name, one.in_adapter, one.in_base) for one in found.dimensions if not one.agrees] == [
        ("key/value width", 32, 64), ("layers", 4, 6),
    ]  # fmt: skip
    assert found.exit_code == 1


@pytest.mark.parametrize(
    ("base", "config", "outcome", "code"),
    [
        ({"dtype": "bfloat16"}, {}, "inexact", 0),
        ({"quantization_config": {"quant_method": "gptq"}}, {}, "refused", 1),
        ({"quantization_config": {"load_in_4bit": True}}, {}, "inexact", 0),
        ({"quantization_config": {"quant_method": "newest"}}, {}, "unknown", 3),
        ({}, {"use_dora": True}, "inexact", 0),
        ({}, {"init_lora_weights": "pissa"}, "inexact", 0),
        ({}, {"init_lora_weights": "pissa_niter_4"}, "wrong", 1),
        ({}, {"init_lora_weights": "corda"}, "wrong", 1),
        ({}, {"init_lora_weights": "gaussian"}, "exact", 0),
        ({}, {"peft_type": "PROMPT_TUNING"}, "refused", 1),
        ({}, {"alora_invocation_tokens": [1, 2]}, "refused", 1),
        ({"tie_word_embeddings": True}, {}, "exact", 0),
    ],
)
def test_merging_is_judged_by_what_stands_against_it(
    pair: tuple[Path, Path], base: dict[str, Any], config: dict[str, Any], outcome: str, code: int
) -> None:
    found = inspect(edit(pair[1], **config), edit(pair[0], "config.json", **base))

    assert (found.merge, found.exit_code) == (outcome, code), str(found)


def test_merging_one_side_of_tied_embeddings_is_wrong(pair: tuple[Path, Path]) -> None:
    def with_head(tensors: dict[str, Any]) -> dict[str, Any]:
        head = "base_model.model.lm_head"
        added = {f"{head}.lora_A.weight": numpy.ones((8, 64), numpy.float32)}
        return {**tensors, **added, f"{head}.lora_B.weight": numpy.ones((320, 8), numpy.float32)}

    retouch(pair[1], with_head)
    assert inspect(pair[1], pair[0]).merge == "exact"

    edit(pair[0], "config.json", tie_word_embeddings=True)

    assert inspect(pair[1], pair[0]).merge == "wrong"


# ------------------------------------------------------------------------------------------------ broken input


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"[1]"),
        ("adapter_model.safetensors", b""),
        ("adapter_model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        ("adapter_model.safetensors", b"\xff" * 64),
    ],
)
def test_what_cannot_be_read_is_a_trouble_and_no_traceback(pair: tuple[Path, Path], name: str, content: bytes) -> None:
    (pair[1] / name).write_bytes(content)

    found = inspect(pair[1])

    assert len(found.troubles) == 1
    assert name in found.troubles[0]
    assert found.exit_code == 1


def test_what_is_not_there_is_a_trouble(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    assert inspect(tmp_path / "nowhere").exit_code == 1
    assert inspect(pair[0]).troubles == ("there is no adapter_config.json", "there are no adapter weights")
    assert "the base: " in inspect(pair[1], tmp_path / "nowhere").troubles[0]


def test_hostile_config_values_do_no_harm(pair: tuple[Path, Path]) -> None:
    fields: dict[str, Any] = {
        "base_model_name_or_path": "\x1b[2Jevil", "rank_pattern": {"(a+)+$": 3}, "alpha_pattern": [1],
        "target_modules": {"a": 1}, "init_lora_weights": {"x": 1}, "layers_to_transform": "all",
    }  # fmt: skip

    text = str(inspect(edit(pair[1], **fields), pair[0]))

    assert "\x1b" not in text


# ------------------------------------------------------------------------------------------------ the command line


def test_command_says_what_the_adapter_is_in_text_and_json(pair: tuple[Path, Path]) -> None:
    run = CliRunner().invoke(application(), ["inspect", str(pair[0]), str(pair[1])])
    assert run.exit_code == 0
    assert "16 × k_proj, o_proj, q_proj, v_proj: rank 8, alpha 16: × 2" in run.output
    assert max(map(len, run.output.splitlines())) <= 80

    run = CliRunner().invoke(application(), ["inspect", str(pair[0]), str(pair[1]), "--format", "json"])
    data = json.loads(run.output)
    assert data["schema"] == 1
    assert data["adapter"]["peft_type"] == "LORA"
    assert data["base"]["merge"] == "exact"
    assert data == inspect(pair[1], pair[0]).to_dict()


@pytest.mark.parametrize("arguments", [["--format", "yaml"], ["--format", "html"], ["--time-limit", "0"]])
def test_wrong_usage_ends_with_2(pair: tuple[Path, Path], arguments: list[str]) -> None:
    assert CliRunner().invoke(application(), ["inspect", str(pair[1]), *arguments]).exit_code == 2


@pytest.mark.parametrize("alpha", ["NaN", "1e400", "1" + "0" * 400])
def test_an_alpha_that_json_does_not_have_is_null(alpha: str, tmp_path: Path) -> None:
    _, adapter = patient.write(tmp_path)
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": "ALPHA"}).replace('"ALPHA"', alpha))
    run = CliRunner().invoke(application(), ["inspect", str(adapter), "--format", "json"])

    assert json.loads(run.output)["scaling"][0]["scaling"] is None


def test_nothing_heavy_is_imported(pair: tuple[Path, Path]) -> None:
    import subprocess

    code = (
        "import sys; from adapter_doctor import inspect; assert inspect(*sys.argv[1:]).tensors;"
        "print(sorted({'torch', 'transformers', 'peft', 'huggingface_hub', 'rich'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(pair[1]), str(pair[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
