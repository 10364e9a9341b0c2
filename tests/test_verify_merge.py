"""`verify-merge`: a merge by PEFT itself is proven, and each usual way of failing is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import hub_server
import peft
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from adapter_doctor import verify_merge
from adapter_doctor.cli import application
from adapter_doctor.formats.safetensors_header import header_length, parse_header
from adapter_doctor.merged.measure import measure
from adapter_doctor.merged.numbers import Tensors
from adapter_doctor.merged.updates import Update

WEIGHTS = "adapter_model.safetensors"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "rank-stabilised": ("llama", {"use_rslora": True}),
    "dora": ("llama", {"use_dora": True}),
    "patterns": ("llama", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}}),
    "embedding": ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
    "saved whole": ("llama", {"modules_to_save": ["lm_head"]}),
    "gpt2": ("gpt2", {"fan_in_fan_out": True}),
    "bert": ("bert", {}),
    "t5": ("t5", {}),
    "phi3": ("phi3", {}),
}


class Bench:
    def __init__(self, root: Path) -> None:
        self.root = root

    def base(self, name: str, dtype: torch.dtype) -> Path:
        folder = self.root / f"{name}-{dtype}"
        if not folder.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tiny.by_name(name).build().to(dtype).save_pretrained(folder)
        return folder

    def model(self, name: str, dtype: torch.dtype) -> Any:
        recipe = tiny.by_name(name)
        labels = recipe.sizes.get("num_labels")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(transformers, recipe.auto).from_pretrained(
                self.base(name, dtype), dtype=dtype, **({"num_labels": labels} if labels else {})
            )

    def adapter(self, kind: str, dtype: torch.dtype = torch.float32) -> tuple[Path, Path]:
        """The base and an adapter for it."""
        name, settings = KINDS[kind]
        folder = self.root / f"{kind}-{dtype}-adapter"
        if not folder.exists():
            recipe = tiny.by_name(name)
            chosen = {"r": 4, "lora_alpha": 12, "target_modules": list(recipe.leaves[:3]), "task_type": recipe.task}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(5)
                model = peft.get_peft_model(self.model(name, dtype), peft.LoraConfig(**{**chosen, **settings}))
                tiny.train_by_chance(model)
                model.save_pretrained(folder)
        return self.base(name, dtype), folder

    def merge(self, kind: str, place: Path, dtype: torch.dtype = torch.float32, times: int = 1) -> tuple[Path, Path, Path]:  # fmt: skip
        base, adapter = self.adapter(kind, dtype)
        model = self.model(KINDS[kind][0], dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(times):
                model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
            model.save_pretrained(place)
        return base, adapter, place


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def edit(folder: Path, change: Any) -> None:
    state = change(load_file(folder / "model.safetensors"))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_merge_by_peft_is_proven(kind: str, bench: Bench, tmp_path: Path) -> None:
    found = verify_merge(*bench.merge(kind, tmp_path / "merged"))

    assert (found.verdict, found.problems, found.doubts) == ("merged", (), ())
    assert set(found.fates) == {"merged"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["llama", "dora", "gpt2"])
def test_a_merge_in_half_precision_is_proven(kind: str, dtype: torch.dtype, bench: Bench, tmp_path: Path) -> None:
    found = verify_merge(*bench.merge(kind, tmp_path / "merged", dtype))

    assert (found.verdict, found.problems) == ("merged", ())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_merge_that_was_cast_afterwards_is_proven(dtype: torch.dtype, bench: Bench, tmp_path: Path) -> None:
    base, adapter, merged = bench.merge("llama", tmp_path / "merged")
    edit(merged, lambda state: {key: value.to(dtype) for key, value in state.items()})
    back = Path(shutil.copytree(merged, tmp_path / "back"))
    edit(back, lambda state: {key: value.float() for key, value in state.items()})

    assert verify_merge(base, adapter, merged).verdict == "merged"
    told = verify_merge(base, adapter, back)
    assert set(told.fates) == {"merged"}, told.problems


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_itself_is_no_merge(dtype: torch.dtype, bench: Bench) -> None:
    base, adapter = bench.adapter("llama", dtype)

    found = verify_merge(base, adapter, base)

    assert found.verdict == "not merged"
    assert found.problems == ("all 9 tensors that the adapter changes equal the base's: the adapter is not in it",)


def test_the_base_cast_to_another_format_is_no_merge(bench: Bench, tmp_path: Path) -> None:
    base, adapter = bench.adapter("llama")
    cast = Path(shutil.copytree(base, tmp_path / "cast"))
    edit(cast, lambda state: {key: value.to(torch.bfloat16) for key, value in state.items()})

    assert verify_merge(base, adapter, cast).problems[0].startswith("all 9 tensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merge_of_some_layers_is_partial(dtype: torch.dtype, bench: Bench, tmp_path: Path) -> None:
    base, adapter, merged = bench.merge("llama", tmp_path / "merged", dtype)
    plain = load_file(base / "model.safetensors")
    edit(merged, lambda state: {key: plain[key] if ".layers.1." in key else value for key, value in state.items()})

    found = verify_merge(base, adapter, merged)

    assert found.problems == (
        "3 of 9 tensors that the adapter changes equal the base's, such as model.layers.1.self_attn.k_proj: the merge is"
        " partial",
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merge_done_twice_is_named(dtype: torch.dtype, bench: Bench, tmp_path: Path) -> None:
    found = verify_merge(*bench.merge("llama", tmp_path / "merged", dtype, times=2))

    assert found.verdict == "not merged"
    assert "9 of 9 updates are in it twice" in found.problems[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merge_at_another_scaling_is_named(dtype: torch.dtype, bench: Bench, tmp_path: Path) -> None:
    base, adapter, merged = bench.merge("rank-stabilised", tmp_path / "merged", dtype)
    plain = Path(shutil.copytree(adapter, tmp_path / "plain"))
    raw = json.loads((plain / "adapter_config.json").read_text())
    (plain / "adapter_config.json").write_text(json.dumps(raw | {"use_rslora": False, "lora_alpha": 8}))

    found = verify_merge(base, plain, merged)

    assert found.verdict == "not merged"
    assert "at another scaling" in found.problems[0]
    assert "6, expected 2 " in found.problems[0]


def test_an_unmerged_model_still_holds_the_adapter(bench: Bench, tmp_path: Path) -> None:
    base, adapter = bench.adapter("llama")
    unmerged = Path(shutil.copytree(base, tmp_path / "unmerged"))
    own = load_file(adapter / WEIGHTS)
    edit(unmerged, lambda state: state | {key.removeprefix("base_model.model."): value for key, value in own.items()})

    found = verify_merge(base, adapter, unmerged)

    assert "still holds 18 tensors of the adapter" in found.problems[0]
    assert "merge_and_unload" in found.problems[0]


def test_a_merge_into_other_weights_is_told_apart(bench: Bench, tmp_path: Path) -> None:
    """As after merging into a 4-bit base that was dequantised."""
    base, adapter, merged = bench.merge("llama", tmp_path / "merged")
    torch.manual_seed(0)
    edit(merged, lambda state: {key: value + torch.randn_like(value) * 0.01 for key, value in state.items()})

    found = verify_merge(base, adapter, merged)

    assert found.verdict == "not merged"
    assert any("merged on other weights" in one for one in found.problems)
    assert any("does not touch differ" in one for one in found.problems)


def test_what_was_saved_whole_must_be_in_the_merge(bench: Bench, tmp_path: Path) -> None:
    base, adapter, merged = bench.merge("saved whole", tmp_path / "merged")
    plain = load_file(base / "model.safetensors")
    edit(merged, lambda state: state | {"lm_head.weight": plain["lm_head.weight"]})

    assert "1 of 1 tensors that the adapter brings whole" in verify_merge(base, adapter, merged).problems[0]


def test_a_tensor_that_is_gone_is_named(bench: Bench, tmp_path: Path) -> None:
    base, adapter, merged = bench.merge("llama", tmp_path / "merged")
    edit(merged, lambda state: {key: value for key, value in state.items() if "layers.2.self_attn.v_proj" not in key})

    assert "not in the merged model" in verify_merge(base, adapter, merged).problems[0]


@pytest.mark.parametrize("setting", [{"quantization_config": {"quant_method": "gptq"}}, {}])
def test_what_cannot_be_looked_at_is_undetermined(setting: dict[str, Any], bench: Bench, tmp_path: Path) -> None:
    base, adapter = bench.adapter("llama")
    other = Path(shutil.copytree(base, tmp_path / "other"))
    raw = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(raw | setting))
    if not setting:
        (other / "model.safetensors").write_bytes(b"no weights")

    assert verify_merge(other, adapter, base).exit_code == 3
    assert verify_merge(base, adapter, tmp_path / "nowhere").exit_code == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-3, 1e-4, 1e-5])
def test_updates_near_or_below_what_the_format_holds_are_still_told_apart(
    size: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Weights of 0.02 in bfloat16 are 1e-4 apart: most of an update of 1e-5 is lost by right, and some of it is there."""
    torch.manual_seed(0)
    weight, down = (torch.randn(256, 256) * 0.02).to(dtype), torch.randn(8, 256)
    up = torch.randn(256, 8)
    up *= size / (up @ down).std()
    delta = (up @ down).to(dtype)
    save_file({"down": down, "up": up}, tmp_path / "adapter")
    save_file({"weight": weight}, tmp_path / "base")
    made = {"merged": weight + delta, "base": weight, "twice": weight + delta + delta}
    half = (up.to(dtype) @ down.to(dtype)) + weight  # as a tool that multiplies in half precision
    adapter, base = listed(tmp_path / "adapter"), listed(tmp_path / "base")
    update = Update("one", "weight", "linear", 1.0, adapter.infos["down"], adapter.infos["up"])

    for expected, values in [*made.items(), ("merged", half)]:
        save_file({"weight": values}, tmp_path / "result")
        result = listed(tmp_path / "result")
        assert measure(update, adapter, base, result, result.infos["weight"]).fate == expected


@pytest.mark.parametrize(
    ("name", "settings", "doubt"),
    [
        ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 2]}}, "embed_tokens"),
        ("mixtral", {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]}, "experts"),
        ("llama-tied", {"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
    ],
)
def test_a_merge_that_is_not_followed_is_not_called_a_failure(
    name: str, settings: dict[str, Any], doubt: str, bench: Bench, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(bench.model(name, torch.float32), peft.LoraConfig(r=4, **settings))
        tiny.train_by_chance(model)
        model.save_pretrained(tmp_path / "adapter")
        model.merge_and_unload().save_pretrained(tmp_path / "merged")

    found = verify_merge(bench.base(name, torch.float32), tmp_path / "adapter", tmp_path / "merged")

    assert (found.verdict, found.problems) == ("undetermined", ())
    assert doubt in found.doubts[0]


def test_masks_and_a_tied_head_that_only_the_base_keeps_are_no_difference(bench: Bench, tmp_path: Path) -> None:
    """As of checkpoints that older releases of transformers wrote."""
    base, adapter, merged = bench.merge("llama", tmp_path / "merged")
    old = Path(shutil.copytree(base, tmp_path / "old"))
    tied = {**json.loads((base / "config.json").read_text()), "tie_word_embeddings": True}
    (merged / "config.json").write_text(json.dumps(tied))
    edit(old, lambda state: state | {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "lm_head.weight": state["model.embed_tokens.weight"].clone(),
    })  # fmt: skip
    edit(merged, lambda state: {key: value for key, value in state.items() if key != "lm_head.weight"})

    assert verify_merge(old, adapter, merged).verdict == "merged"
    (merged / "config.json").write_text(json.dumps(tied | {"tie_word_embeddings": False}))
    assert "'lm_head.weight'" in verify_merge(old, adapter, merged).problems[0]


def test_what_the_merged_model_has_beyond_the_base_is_no_proven_merge(bench: Bench, tmp_path: Path) -> None:
    base, adapter, merged = bench.merge("llama", tmp_path / "merged")
    edit(merged, lambda state: state | {key.replace(".2.", ".3."): state[key] + 1 for key in state if ".2." in key})

    found = verify_merge(base, adapter, merged)

    assert found.verdict == "undetermined"
    assert "9 tensors of the merged model are not in the base" in found.doubts[0]


def test_a_head_that_the_merged_class_lacks_is_a_doubt(bench: Bench, tmp_path: Path) -> None:
    base, adapter, merged = bench.merge("llama", tmp_path / "merged")
    edit(merged, lambda state: {key: value for key, value in state.items() if key != "lm_head.weight"})
    assert verify_merge(base, adapter, merged).verdict == "not merged"

    raw = json.loads((merged / "config.json").read_text())
    (merged / "config.json").write_text(json.dumps(raw | {"architectures": ["LlamaForSequenceClassification"]}))
    assert verify_merge(base, adapter, merged).verdict == "undetermined"


@pytest.mark.filterwarnings("ignore")
def test_a_classifier_merged_from_a_language_model_is_proven_by_the_head_that_the_adapter_brings(
    bench: Bench, tmp_path: Path
) -> None:
    base, adapter, merged = bench.base("llama", torch.float32), tmp_path / "adapter", tmp_path / "merged"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    lora = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="SEQ_CLS")
    made = peft.get_peft_model(model, lora)
    tiny.train_by_chance(made)
    made.save_pretrained(adapter)
    made.merge_and_unload().save_pretrained(merged)

    found = verify_merge(base, adapter, merged)
    assert (found.verdict, found.problems, found.doubts) == ("merged", (), ())
    edit(merged, lambda state: state | {"score.weight": state["score.weight"] * 0})
    assert "1 of 1 tensors that the adapter brings whole" in verify_merge(base, adapter, merged).problems[0]
    edit(merged, lambda state: {key: value for key, value in state.items() if key != "score.weight"})
    assert verify_merge(base, adapter, merged).verdict == "not merged"


def test_a_quantised_merge_is_undetermined(bench: Bench, tmp_path: Path) -> None:
    base, adapter, merged = bench.merge("llama", tmp_path / "merged")
    raw = json.loads((merged / "config.json").read_text())
    (merged / "config.json").write_text(json.dumps(raw | {"quantization_config": {"load_in_4bit": True}}))
    edit(merged, lambda state: {key: value.to(torch.uint8) for key, value in state.items()})

    assert "quantised" in verify_merge(base, adapter, merged).doubts[0]


@pytest.mark.parametrize("change", ["format", "magnitude", "no rows", "alpha", "no tensors"])
def test_hostile_files_end_in_a_verdict(change: str, bench: Bench, tmp_path: Path) -> None:
    base, whole, merged = bench.merge("saved whole", tmp_path / "merged")
    adapter, other = Path(shutil.copytree(whole, tmp_path / "adapter")), Path(shutil.copytree(base, tmp_path / "other"))
    state = load_file(adapter / WEIGHTS)
    first = next(key for key in state if key.endswith("lora_B.weight"))
    if change == "format":
        state["base_model.model.lm_head.weight"] = state["base_model.model.lm_head.weight"].to(torch.float8_e4m3fn)
    elif change == "magnitude":
        state[first.replace("lora_B.weight", "lora_magnitude_vector")] = torch.ones(len(state[first]), dtype=torch.int8)
    elif change == "no rows":
        name = first.removeprefix("base_model.model.").replace("lora_B.", "")
        state[first] = state[first][:0]
        for folder in (other, merged):
            edit(folder, lambda weights: weights | {name: weights[name][:0]})
    elif change == "alpha":
        raw = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps(raw | {"lora_alpha": 10**400}))
    save_file(state if change != "no tensors" else {}, adapter / WEIGHTS)

    told = CliRunner().invoke(application(), ["verify-merge", str(other), str(adapter), str(merged)])

    assert told.exit_code in (1, 3), told.exception
    assert told.stdout


def test_shards_on_the_hub_whose_headers_were_not_read_are_read_in_full(bench: Bench, tmp_path: Path) -> None:
    _, adapter, merged = bench.merge("llama", tmp_path / "merged")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench.model("llama", torch.float32).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    with hub_server.HubServer() as hub, hub_server.in_use(hub.url, tmp_path / "home"):
        hub.add("acme/tiny", {path.name: path.read_bytes() for path in (tmp_path / "sharded").iterdir()})
        found = verify_merge("acme/tiny", adapter, merged)

    assert (found.verdict, found.problems) == ("merged", ())


def listed(path: Path) -> Tensors:
    raw = path.read_bytes()
    length = header_length(raw[:64], len(raw))
    return Tensors(path.parent, parse_header(raw[8 : 8 + length], len(raw), path.name).tensors)


def test_the_command_needs_no_torch_and_says_what_it_found(bench: Bench, tmp_path: Path) -> None:
    base, adapter, merged = bench.merge("llama", tmp_path / "merged")
    script = (
        "import sys; from adapter_doctor import verify_merge\n"
        "found = verify_merge(*sys.argv[1:]); assert found.verdict == 'merged', found\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, base, adapter, merged], check=True)

    told = CliRunner().invoke(application(), ["verify-merge", str(base), str(adapter), str(merged)])
    sick = CliRunner().invoke(application(), ["verify-merge", str(base), str(adapter), str(base), "--format", "json"])

    assert (told.exit_code, told.stdout) == (0, "MERGED\n  · 9 of 9 updates are in the merged model\n")
    assert (sick.exit_code, json.loads(sick.stdout)["verdict"]) == (1, "not merged")
    assert CliRunner().invoke(application(), ["verify-merge", "a", "b", "", "--format", "html"]).exit_code == 2
