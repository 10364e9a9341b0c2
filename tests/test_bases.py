"""The table of known bases: every entry has a source, and its sizes give the parameter counts that are published."""

from __future__ import annotations

import importlib.util
import json
import struct
import time
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from adapter_doctor import inspect
from adapter_doctor.knowledge.bases import KnownBase, copies, known_as, known_bases

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"

# From the models' cards and files: rows of the embedding, padding and tied weights counted as they are there.
PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "google/gemma-2b": 2_506_172_416,
    "google/gemma-7b": 8_537_680_896,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-270m": 268_098_176,
    "google/gemma-3-1b-it": 999_885_952,
    "google/gemma-3-4b-it": 4_300_079_472,
    "google/gemma-3-27b-it": 27_432_406_640,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/phi-2": 2_779_683_840,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "bigscience/bloom-560m": 559_214_592,
    "bigscience/bloom-1b1": 1_065_314_304,
    "bigscience/bloom-1b7": 1_722_408_960,
    "bigscience/bloom-3b": 3_002_557_440,
    "openai-community/gpt2": 124_439_808,
    "openai-community/gpt2-medium": 354_823_168,
    "openai-community/gpt2-large": 774_030_080,
    "openai-community/gpt2-xl": 1_557_611_200,
    "facebook/opt-1.3b": 1_315_758_080,
    "EleutherAI/pythia-70m": 70_426_624,
    "EleutherAI/pythia-160m": 162_322_944,
    "EleutherAI/pythia-410m": 405_334_016,
    "EleutherAI/pythia-1b": 1_011_781_632,
    "EleutherAI/pythia-1.4b": 1_414_647_808,
    "EleutherAI/pythia-2.8b": 2_775_208_960,
    "EleutherAI/pythia-6.9b": 6_857_302_016,
    "EleutherAI/pythia-12b": 11_846_072_320,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "tiiuae/falcon-7b": 6_921_720_704,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_by_the_dimensions_are_those_published(name: str) -> None:
    assert known_bases()[name].parameters == PUBLISHED[name]


def test_table_holds_the_bases_that_people_fine_tune_each_with_its_source() -> None:
    assert len(known_bases()) >= 300
    assert all(one.source and one.modules and one.hidden > 0 for one in known_bases().values())
    assert set(copies().values()) <= set(known_bases())
    assert not set(copies()) & set(known_bases())


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "olmo2", "stablelm"])
def test_projections_are_as_wide_as_the_heads_say(kind: str) -> None:
    for base in (one for one in known_bases().values() if one.model_type == kind):
        layer = {path.rpartition(".")[2]: span for path, span in base.modules.items() if ".layers.*." in path}
        assert base.heads
        assert base.kv_heads
        assert base.head_dim
        assert layer["q_proj"].widths == {(base.heads * base.head_dim, base.hidden)}
        assert layer["k_proj"].widths == layer["v_proj"].widths == {(base.kv_heads * base.head_dim, base.hidden)}
        assert layer["up_proj"].widths == {(base.intermediate, base.hidden)}
        assert {span.layers for span in layer.values()} == {base.layers}
        assert base.modules["model.embed_tokens"].widths == {(base.hidden, base.vocab)}


def test_table_is_what_transformers_builds_from_the_facts() -> None:
    script = _script()
    rows = {row["id"]: row for row in map(json.loads, script.FACTS.read_text("utf-8").splitlines())}
    for name in ("EleutherAI/pythia-14m", "Qwen/Qwen2.5-0.5B", "google-t5/t5-small", "THUDM/chatglm3-6b"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dimensions, modules = script.describe(rows[name]["config"])
        known = known_bases()[name]
        assert {key: getattr(known, key) for key in dimensions} == dimensions
        assert {path: [sorted(span.widths), span.layers] for path, span in known.modules.items()} == {
            path: [[tuple(width) for width in widths], layers] for path, (widths, layers) in modules.items()
        }


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_bases", SCRIPTS / "build_bases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("/home/someone/models/Llama-2-7b-hf/", "meta-llama/Llama-2-7b-hf"),
        ("D:\\models\\qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("/root/.cache/huggingface/hub/models--google--gemma-2b/snapshots/" + "0" * 40, "google/gemma-2b"),
        ("unsloth/llama-3-8b-bnb-4bit", "unsloth/llama-3-8b-bnb-4bit"),
        ("/data/out/my-finetune", None),
        ("/", None),
        ("", None),
    ],
)
def test_known_base_is_recognised_by_the_last_part_of_a_path(name: str, meant: str | None) -> None:
    assert known_as(name) == meant


# --------------------------------------------------------------------------------------------- inspected by header


def write_adapter(base: KnownBase, folder: Path, leaves: tuple[str, ...] = ()) -> Path:
    """LoRA of rank 1 on all layers of a known base, or those with these last names: a header over a hole."""
    header, end = {}, 0
    for path, span in base.modules.items():
        if "*" not in path or (leaves and path.rpartition(".")[2] not in leaves):
            continue
        out, into = min(span.widths)
        for number in range(span.layers):
            name = "base_model.model." + path.replace("*", str(number), 1).replace("*", "0")
            for factor, shape in (("lora_A", (1, into)), ("lora_B", (out, 1))):
                start, end = end, end + 2 * max(shape)
                header[f"{name}.{factor}.weight"] = {"dtype": "F16", "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 1,
        "lora_alpha": 2,
        "base_model_name_or_path": base.id,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def test_every_known_base_is_among_the_exact_fits_of_an_adapter_made_for_it(tmp_path: Path) -> None:
    spent = []
    for base in known_bases().values():
        write_adapter(base, tmp_path)
        started = time.process_time()
        found = inspect(tmp_path)
        spent.append(time.process_time() - started)
        assert base.id in found.identity.candidates.exact, base.id
        assert base.model_type in found.identity.families
        assert found.means == base.id
        assert found.exit_code == 0
    # The largest of 309 on a machine that does other things says nothing of the code; nine of ten do.
    assert sorted(spent)[len(spent) * 9 // 10] < 0.5, f"{max(spent):.2f} s of processor time at most"


def test_an_adapter_of_queries_and_values_alone_still_finds_its_base(tmp_path: Path) -> None:
    for name in (
        "meta-llama/Meta-Llama-3-8B",
        "Qwen/Qwen2.5-7B",
        "google/gemma-2-9b",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    ):
        found = inspect(write_adapter(known_bases()[name], tmp_path, ("q_proj", "v_proj"))).identity

        assert name in found.candidates.exact
        assert not found.whole


def test_bases_of_other_sizes_are_no_fits(tmp_path: Path) -> None:
    found = inspect(write_adapter(known_bases()["Qwen/Qwen2.5-7B"], tmp_path)).identity.candidates
    sizes = {(known_bases()[name].hidden, known_bases()[name].layers) for name in found.exact + found.but_vocabulary}

    assert sizes == {(3584, 28)}
