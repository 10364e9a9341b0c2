"""The load in a child process: what it reports is what PEFT does, and whatever happens to the child is an outcome."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file

from adapter_doctor import AdapterError, DoctorError, check, load
from adapter_doctor.loading.process import LoadingChild
from adapter_doctor.report import Report

WEIGHTS, PICKLE, CONFIG = "adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"
State = dict[str, torch.Tensor]


class Progress:
    """What the child tells while it works, and what a test does about it."""

    def __init__(self) -> None:
        self.react: Callable[[str], None] = lambda _: None

    def __call__(self, text: str) -> None:
        self.react(text)


progress = Progress()


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    """One loading process for the whole module: its import takes far longer than any of the loads."""
    with LoadingChild(progress=progress) as one:
        yield one


class Bench:
    """Bases and adapters on disk, each made once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def base(self, name: str = "llama", **sizes: Any) -> Path:
        folder = self.root / "-".join([name, *(f"{key}{value}" for key, value in sizes.items())])
        if not folder.exists():
            recipe = tiny.by_name(name)
            changed = tiny.Tiny(name, recipe.config, recipe.auto, recipe.task, recipe.leaves, {**recipe.sizes, **sizes})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                changed.build().save_pretrained(folder)
        return folder

    def model(self, name: str = "llama", **sizes: Any) -> Any:
        labels = tiny.by_name(name).sizes.get("num_labels")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            auto = getattr(transformers, tiny.by_name(name).auto)
            return auto.from_pretrained(self.base(name, **sizes), **({"num_labels": labels} if labels else {}))

    def adapter(self, folder: Path, config: Any, name: str = "llama", **sizes: Any) -> Path:
        """An adapter of this config for a base, trained by chance."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.get_peft_model(self.model(name, **sizes), config)
            tiny.train_by_chance(model)
            model.save_pretrained(folder, save_embedding_layers=False)
        return folder

    def lora(self, folder: Path, name: str = "llama", **options: Any) -> Path:
        recipe = tiny.by_name(name)
        options = {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": list(recipe.leaves[:2]),
            "task_type": recipe.task,
            **options,
        }
        return self.adapter(folder, peft.LoraConfig(**options), name)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    transformers.utils.logging.disable_progress_bar()
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def sound(bench: Bench, tmp_path: Path) -> Path:
    return bench.lora(tmp_path / "sound")


def examine(base: Any, adapter: Path, child: LoadingChild | None, **options: Any) -> Report:
    return check(base, adapter, child=child, time_limit=options.pop("time_limit", 100), cache=False, **options)


def codes(report: Report) -> list[str]:
    return [one.rule.code for one in report.findings]


def rewrite(adapter: Path, change: Callable[[State], Mapping[str, torch.Tensor]]) -> None:
    state = change(load_file(adapter / WEIGHTS))
    save_file(
        {key: value.clone().contiguous() for key, value in state.items()}, adapter / WEIGHTS, metadata={"format": "pt"}
    )


def configure(adapter: Path, **changes: Any) -> None:
    raw = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**raw, **changes}))


def truth(base: Any, adapter: Path) -> dict[str, int]:
    """What PEFT makes of the adapter, told by values alone: each tensor is random, so equal values are the same tensor."""
    file = load_file(adapter / WEIGHTS)
    before = {name: value.clone() for name, value in base.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(base, adapter)
        saved = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    after = {
        re.sub(r"\.(base_layer|original_module|token_adapter)(?=\.)", "", name): value
        for name, value in model.get_base_model().named_parameters()
    }
    asked = {key.replace(".base_layer", "").removeprefix("base_model.model.") for key in saved}
    overwritten = [name for name, value in before.items() if name not in asked and not torch.equal(after[name], value)]
    held = [*saved.values(), *(after[name] for name in overwritten)]
    landed = [key for key, value in file.items() if any(same(value, one) for one in held)]
    left = [key for key, value in saved.items() if not any(same(value, one) for one in file.values())]
    return {
        "in_file": len(file), "landed": len(landed), "ignored": len(file) - len(landed), "left_at_init": len(left),
        "overwritten_base": len(overwritten),
    }  # fmt: skip


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one.float(), other.float()))


# ------------------------------------------------------------------------------------------------ healthy adapters

HEALTHY: dict[str, tuple[str, Any]] = {
    "LoRA": ("llama", {}),
    "DoRA": ("llama", {"use_dora": True}),
    "rank-stabilised with patterns": ("llama", {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"k_proj": 3}}),
    "all linear layers": ("llama", {"target_modules": "all-linear"}),
    "by regular expression": ("llama", {"target_modules": r".*layers\.[01]\..*(q|v)_proj"}),
    "two layers only": ("llama", {"layers_to_transform": [0, 2]}),
    "saved head": ("llama", {"modules_to_save": ["lm_head"]}),
    "saved embedding of tied weights": ("llama-tied", {"modules_to_save": ["embed_tokens"]}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "trained tokens": ("llama", {"trainable_token_indices": [3, 5]}),
    "all biases": ("qwen2", {"bias": "all"}),
    "with bias": ("llama", {"lora_bias": True}),
    "GPT-2": ("gpt2", {"fan_in_fan_out": True}),
    "T5": ("t5", {}),
    "BERT with a classifier": ("bert", {}),
    "Llama with a score": ("llama-cls", {}),
    "experts": ("mixtral", {}),
    "IA3": ("llama", peft.IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "LoHa": ("llama", peft.LoHaConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"])),
    "LoKr": ("llama", peft.LoKrConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"])),
    "VeRA": ("llama", peft.VeraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"])),
    "OFT": ("llama", peft.OFTConfig(task_type="CAUSAL_LM", oft_block_size=8, target_modules=["q_proj"])),
    "prompt tuning": ("llama", peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
    "prefix tuning": ("llama", peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
}  # fmt: skip


def make_healthy(bench: Bench, name: str, folder: Path) -> Path:
    base, config = HEALTHY[name]
    return bench.lora(folder, base, **config) if isinstance(config, dict) else bench.adapter(folder, config, base)


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_adapter_lands_to_the_last_tensor_and_nothing_is_said(
    name: str, bench: Bench, child: LoadingChild, tmp_path: Path
) -> None:
    base = HEALTHY[name][0]
    adapter = make_healthy(bench, name, tmp_path / "adapter")
    report = examine(bench.base(base), adapter, child)
    count = len(load_file(adapter / WEIGHTS))

    assert (report.verdict, report.examined, report.open_questions) == ("compatible", "loaded", ()), report.summary
    assert report.landed == {"in_file": count, "landed": count, "ignored": 0, "left_at_init": 0, "overwritten_base": 0}
    said = [one.rule.name for one in report.findings if one.rule.severity > 1]
    assert said == (["tied-embeddings"] if name == "saved embedding of tied weights" else [])
    assert report.diagnosis.crashed == ()
    assert "Warning" not in str(report)
    if not name.startswith(("prompt", "prefix", "VeRA", "saved embedding")):
        assert report.landed == truth(bench.model(base), adapter)


@pytest.mark.parametrize("name", ["LoRA", "DoRA", "saved head", "BERT with a classifier", "IA3", "prompt tuning"])
def test_healthy_adapter_lands_on_real_weights_and_changes_the_output(
    name: str, bench: Bench, child: LoadingChild, tmp_path: Path
) -> None:
    adapter = make_healthy(bench, name, tmp_path / "adapter")
    report = examine(bench.base(HEALTHY[name][0]), adapter, child, load="full", run=True)

    assert (report.verdict, report.examined, report.open_questions) == ("compatible", "run", ()), report.summary
    assert [one.rule.name for one in report.findings if one.rule.severity > 1] == []
    assert report.landed is not None
    assert report.landed["landed"] == report.landed["in_file"] > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_adapter_of_half_precision_lands(dtype: torch.dtype, bench: Bench, child: LoadingChild, sound: Path) -> None:
    rewrite(sound, lambda state: {key: value.to(dtype) for key, value in state.items()})

    for extent in ("skeleton", "full"):
        report = examine(bench.base(), sound, child, load=extent)
        assert (report.verdict, report.landed and report.landed["landed"]) == ("compatible", 12)


def test_adapter_in_a_torch_file_lands(bench: Bench, child: LoadingChild, sound: Path) -> None:
    torch.save(load_file(sound / WEIGHTS), sound / PICKLE)
    (sound / WEIGHTS).unlink()
    report = examine(bench.base(), sound, child)

    assert (report.verdict, report.landed and report.landed["landed"]) == ("compatible", 12)


def test_base_without_weights_is_enough_for_a_skeleton(
    bench: Bench, child: LoadingChild, sound: Path, tmp_path: Path
) -> None:
    (tmp_path / "bare").mkdir()
    shutil.copy(bench.base() / "config.json", tmp_path / "bare")

    assert examine(tmp_path / "bare", sound, child).verdict == "compatible"


def test_same_request_gives_the_same_report(bench: Bench, child: LoadingChild, sound: Path) -> None:
    rewrite(sound, lambda state: {key: value for key, value in state.items() if "layers.1" not in key})
    first, second = (examine(bench.base(), sound, child).to_dict() for _ in range(2))

    assert json.dumps(first) == json.dumps(second)


# ------------------------------------------------------------------------------------------------- broken adapters

Q = "base_model.model.model.layers.{}.self_attn.q_proj"


def renamed(old: str, new: str, only: str = "") -> Callable[[State], State]:
    return lambda state: {key.replace(old, new, 1) if only in key else key: value for key, value in state.items()}


def without(part: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if part not in key}


def with_also(**more: tuple[int, ...]) -> Callable[[State], State]:
    return lambda state: {**state, **{key.replace("__", "."): torch.randn(shape) for key, shape in more.items()}}


BROKEN: dict[str, Callable[[State], State]] = {
    "names of torch.compile": renamed("base_model.model.", "base_model.model._orig_mod."),
    "names of DistributedDataParallel": renamed("base_model.", "module.base_model."),
    "wrapped twice": renamed("base_model.model.", "base_model.model.base_model.model."),
    "without PEFT's prefix": renamed("base_model.model.", ""),
    "without the model's prefix": renamed("base_model.model.model.", "base_model.model."),
    "of another adapter's name": renamed(".weight", ".other.weight"),
    "half of the names wrong": renamed("q_proj", "query"),
    "one layer beyond the last": renamed("layers.2.", "layers.3."),
    "one tensor missing": without("layers.1.self_attn.q_proj.lora_B"),
    "one layer missing": without("layers.1."),
    "all of lora_A missing": without("lora_A"),
    "nothing at all": without(""),
    "one stray tensor": with_also(stray=(3, 3)),
    "stray magnitudes": with_also(**{Q.format(0).replace(".", "__") + "__lora_magnitude_vector": (32,)}),
    "a weight of the base inside": with_also(**{Q.format(1).replace(".", "__") + "__base_layer__weight": (32, 32)}),
    "a norm of the base inside": with_also(base_model__model__model__norm__weight=(32,)),
    "head and embedding inside": with_also(
        base_model__model__lm_head__weight=(128, 32), base_model__model__model__embed_tokens__weight=(128, 32)
    ),
    "base weights and wrong names": lambda state: with_also(base_model__model__model__norm__weight=(32,))(
        renamed("layers.0.", "layers.9.")(state)
    ),
}


@pytest.mark.parametrize("extent", ["skeleton", "full"])
@pytest.mark.parametrize("name", BROKEN)
def test_what_became_of_the_tensors_is_what_peft_did_with_their_values(
    name: str, extent: str, bench: Bench, child: LoadingChild, sound: Path
) -> None:
    torch.manual_seed(4)
    rewrite(sound, BROKEN[name])
    real = truth(bench.model(), sound)
    report = examine(bench.base(), sound, child, load=extent)

    assert (report.verdict, report.examined, report.diagnosis.crashed) == ("incompatible", "loaded", ()), report.summary
    assert real["ignored"] + real["left_at_init"] + real["overwritten_base"] > 0
    assert report.landed == (real if real["in_file"] else None)


def test_adapter_name_that_peft_tolerates_lands(bench: Bench, child: LoadingChild, sound: Path) -> None:
    rewrite(sound, renamed(".weight", ".default.weight"))
    report = examine(bench.base(), sound, child)

    assert report.landed == truth(bench.model(), sound)
    assert report.verdict == "compatible"


def test_base_with_fewer_layers_leaves_tensors_over(bench: Bench, child: LoadingChild, sound: Path) -> None:
    report = examine(bench.base(num_hidden_layers=2), sound, child)

    assert report.landed == truth(bench.model(num_hidden_layers=2), sound)
    assert report.landed == {"in_file": 12, "landed": 8, "ignored": 4, "left_at_init": 0, "overwritten_base": 0}
    assert (report.verdict, report.cause and report.cause.rule.name) == ("incompatible", "layer-count-mismatch")


def test_base_with_more_layers_leaves_places_empty(bench: Bench, child: LoadingChild, sound: Path) -> None:
    report = examine(bench.base(num_hidden_layers=5), sound, child)

    assert report.landed == truth(bench.model(num_hidden_layers=5), sound)
    assert report.landed == {"in_file": 12, "landed": 12, "ignored": 0, "left_at_init": 8, "overwritten_base": 0}
    assert report.verdict == "incompatible"


@pytest.mark.parametrize(
    ("change", "sizes", "cause"),
    [
        pytest.param({"r": 3}, {}, "rank-mismatch", id="another rank in the config"),
        pytest.param({}, {"hidden_size": 64}, "wrong-base", id="another width"),
        pytest.param({}, {"num_key_value_heads": 4}, None, id="other heads"),
    ],
)
def test_tensors_of_another_shape_are_refused_and_the_cause_is_named(
    change: dict[str, Any], sizes: dict[str, Any], cause: str | None, bench: Bench, child: LoadingChild, sound: Path
) -> None:
    configure(sound, **change)
    with pytest.raises(RuntimeError, match="size mismatch"):
        truth(bench.model(**sizes), sound)
    for extent in ("skeleton", "full"):
        report = examine(bench.base(**sizes), sound, child, load=extent)
        assert (report.verdict, report.examined) == ("incompatible", "loaded")
        assert report.cause is not None
        assert cause in (None, report.cause.rule.name)
        assert len([one for one in report.findings if one.rule.severity == 3 and one.consequence_of is None]) == 1


def test_target_that_does_not_exist_is_refused_as_peft_refuses_it(
    bench: Bench, child: LoadingChild, sound: Path
) -> None:
    configure(sound, target_modules=["query"])
    report = examine(bench.base(), sound, child)

    assert (report.verdict, report.cause and report.cause.rule.name) == ("incompatible", "no-target-matches")


@pytest.mark.parametrize(("name", "found"), [("deberta-v2", ["AD509"]), ("bert", [])])
@pytest.mark.filterwarnings("ignore")
def test_prefix_that_peft_refuses_in_the_first_pass_is_refused_here(
    name: str, found: list[str], bench: Bench, child: LoadingChild, tmp_path: Path
) -> None:
    config = peft.PrefixTuningConfig(task_type=tiny.by_name(name).task, num_virtual_tokens=4)
    adapter = bench.adapter(tmp_path / "prefix", config, name)
    report = examine(bench.base(name), adapter, child)

    assert [one.rule.code for one in report.findings if one.rule.severity >= 2] == found
    with pytest.raises(ValueError, match="does not support past key values") if found else contextlib.nullcontext():
        peft.PeftModel.from_pretrained(bench.model(name), adapter)(input_ids=torch.arange(3, 9)[None])


@pytest.mark.filterwarnings("ignore")
def test_copies_of_a_shared_projection_that_differ_do_not_all_land(
    bench: Bench, child: LoadingChild, tmp_path: Path
) -> None:
    config = peft.RandLoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    adapter = bench.adapter(tmp_path / "randlora", config)
    assert examine(bench.base(), adapter, child).verdict == "compatible"
    first = next(key for key in load_file(adapter / WEIGHTS) if key.endswith("layers.0.self_attn.q_proj.randlora_B"))
    rewrite(adapter, lambda state: {**state, first: state[first] + 1})
    report = examine(bench.base(), adapter, child)

    assert (report.verdict, report.landed and report.landed["ignored"]) == ("incompatible", 1)
    loaded = peft.PeftModel.from_pretrained(bench.model(), adapter)
    mine = dict(loaded.named_buffers(remove_duplicate=False))[first + ".default"]
    assert not torch.equal(mine, load_file(adapter / WEIGHTS)[first])


def test_zeroed_adapter_leaves_the_output_as_it_is(bench: Bench, child: LoadingChild, sound: Path) -> None:
    rewrite(
        sound,
        lambda state: {key: torch.zeros_like(value) if "lora_B" in key else value for key, value in state.items()},
    )
    report = examine(bench.base(), sound, child, load="full", run=True)

    assert (report.examined, "AD506" in codes(report)) == ("run", True)
    assert report.verdict != "compatible" or [one for one in report.findings if one.rule.severity == 2]


def test_adapter_that_makes_no_numbers_is_caught_by_running_it(
    bench: Bench, child: LoadingChild, tmp_path: Path
) -> None:
    adapter = bench.lora(tmp_path / "adapter", target_modules=["v_proj"])
    rewrite(adapter, lambda state: {key: value * 1e30 for key, value in state.items()})
    report = examine(bench.base(), adapter, child, load="full", run=True)

    assert (report.examined, report.verdict, "AD507" in codes(report)) == ("run", "incompatible", True)


def test_base_whose_type_is_unknown_is_no_crash(bench: Bench, child: LoadingChild, sound: Path, tmp_path: Path) -> None:
    shutil.copytree(bench.base(), tmp_path / "base")
    raw = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**raw, "model_type": "no-such-type"}))
    report = examine(tmp_path / "base", sound, child)

    assert (report.exit_code in (1, 3), report.diagnosis.crashed) == (True, ())


def test_model_class_may_be_chosen(bench: Bench, child: LoadingChild, sound: Path) -> None:
    assert examine(bench.base(), sound, child, model_class="LlamaForCausalLM").verdict == "compatible"
    assert examine(bench.base(), sound, child, model_class="LlamaModel").verdict == "incompatible"
    assert examine(bench.base(), sound, child, model_class="NoSuchModel").exit_code in (1, 3)


# ---------------------------------------------------------------------------------------------- nothing is unpickled


class Touches:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("extent", ["skeleton", "full", "no"])
def test_payload_in_an_adapter_is_never_run(
    extent: str, bench: Bench, child: LoadingChild, sound: Path, tmp_path: Path
) -> None:
    torch.save({**load_file(sound / WEIGHTS), "x": Touches(tmp_path / "mark")}, sound / PICKLE)
    (sound / WEIGHTS).unlink()
    report = examine(bench.base(), sound, child, load=extent)

    assert (report.verdict, report.cause and report.cause.rule.name) == ("incompatible", "unsafe-pickle")
    assert not (tmp_path / "mark").exists()
    with pytest.raises(AdapterError):
        load(bench.base(), sound, child=child, cache=False)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("extent", ["skeleton", "full"])
def test_payload_in_a_base_is_never_run(
    extent: str, bench: Bench, child: LoadingChild, sound: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    shutil.copy(bench.base() / "config.json", base)
    torch.save({"model.norm.weight": Touches(tmp_path / "mark")}, base / "pytorch_model.bin")
    report = examine(base, sound, child, load=extent)

    assert not (tmp_path / "mark").exists()
    assert report.verdict == ("compatible" if extent == "skeleton" else report.verdict)
    assert extent == "skeleton" or report.verdict != "compatible"


def test_code_in_a_base_is_never_run_unasked(bench: Bench, child: LoadingChild, sound: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(bench.base(), base)
    raw = json.loads((base / "config.json").read_text())
    raw |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}}
    (base / "config.json").write_text(json.dumps(raw))
    (base / "own.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    began = time.monotonic()
    for extent in ("skeleton", "full"):
        assert examine(base, sound, child, load=extent).diagnosis.crashed == ()

    assert not (tmp_path / "mark").exists()
    assert time.monotonic() - began < 10, "nobody is asked whether to trust it"


# ---------------------------------------------------------------------------------------------- a model in memory


def test_model_in_memory_works_as_base_and_is_left_as_it_was(
    bench: Bench, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bench.model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classes = {name: type(one) for name, one in model.named_modules()}
    grads = {name: one.requires_grad for name, one in model.named_parameters()}
    places = {name: one.data_ptr() for name, one in model.named_parameters()}
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    report = check(model, sound, cache=False)

    assert (report.verdict, report.examined, report.open_questions) == ("compatible", "loaded", ())
    assert report.landed == {"in_file": 12, "landed": 12, "ignored": 0, "left_at_init": 0, "overwritten_base": 0}
    assert report.base["names_from"] == "memory"
    assert not hasattr(model, "peft_config")
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: type(one) for name, one in model.named_modules()} == classes
    assert {name: one.requires_grad for name, one in model.named_parameters()} == grads
    assert {name: one.data_ptr() for name, one in model.named_parameters()} == places
    assert model.training


@pytest.mark.parametrize("name", ["names of torch.compile", "one layer missing", "a norm of the base inside"])
def test_model_in_memory_tells_what_the_child_tells(name: str, bench: Bench, child: LoadingChild, sound: Path) -> None:
    rewrite(sound, BROKEN[name])
    inside, apart = check(bench.model(), sound, cache=False), examine(bench.base(), sound, child)

    assert (inside.verdict, inside.landed) == (apart.verdict, apart.landed)
    assert inside.cause is not None
    assert apart.cause is not None
    assert inside.cause.rule is apart.cause.rule


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "t5", "bert"])
def test_models_of_other_kinds_work_in_memory(name: str, bench: Bench, tmp_path: Path) -> None:
    adapter, model = bench.lora(tmp_path / "adapter", name), bench.model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = check(model, adapter, cache=False)

    assert (report.verdict, report.landed) == ("compatible", truth(bench.model(name), adapter))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_model_of_torch_alone_works_in_memory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
    adapted = peft.get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)), peft.LoraConfig(r=2, target_modules=["0"])
    )
    tiny.train_by_chance(adapted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(tmp_path / "adapter")
    report = check(model, tmp_path / "adapter", cache=False)

    assert (report.cause, report.landed and report.landed["landed"]) == (None, 2)


def test_static_check_of_a_model_in_memory_needs_no_load(bench: Bench, sound: Path) -> None:
    report = check(bench.model(), sound, load="no", cache=False)

    assert (report.verdict, report.examined, report.landed) == ("compatible", "static", None)


def test_model_that_carries_an_adapter_already_is_wrong_usage(bench: Bench, sound: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(bench.model(), sound)

    with pytest.raises(DoctorError, match="already carries an adapter"):
        check(model, sound, cache=False)


# -------------------------------------------------------------------------------------------------------------- load


@pytest.mark.filterwarnings("ignore")  # PEFT's own, which a user of PEFT sees too
def test_load_returns_the_model_with_the_adapter_in_it(bench: Bench, child: LoadingChild, sound: Path) -> None:
    model = load(bench.base(), sound, child=child, cache=False)
    file = load_file(sound / WEIGHTS)
    saved = peft.get_peft_model_state_dict(model, save_embedding_layers=False)

    assert isinstance(model, peft.PeftModel)
    assert set(saved) == set(file)
    assert all(torch.equal(saved[key], value) for key, value in file.items())
    real = dict(bench.model().named_parameters())
    assert torch.equal(model.get_base_model().model.norm.weight, real["model.norm.weight"])


@pytest.mark.filterwarnings("ignore")
def test_load_onto_a_model_in_memory_adapts_that_model(bench: Bench, sound: Path) -> None:
    base = bench.model()
    model = load(base, sound, cache=False)

    assert isinstance(model, peft.PeftModel)
    assert model.get_base_model() is base


@pytest.mark.parametrize("name", ["names of torch.compile", "one tensor missing", "a norm of the base inside"])
def test_load_raises_where_peft_would_be_silent(name: str, bench: Bench, child: LoadingChild, sound: Path) -> None:
    rewrite(sound, BROKEN[name])

    with pytest.raises(AdapterError) as error:
        load(bench.base(), sound, child=child, cache=False)
    assert error.value.report.verdict == "incompatible"
    assert error.value.report.cause is not None
    assert error.value.report.cause.rule.code in str(error.value)
    model = bench.model()
    with pytest.raises(AdapterError):
        load(model, sound, cache=False)
    assert not hasattr(model, "peft_config"), "a refused adapter leaves the model alone"


def test_load_of_nothing_raises_with_a_report(bench: Bench, child: LoadingChild, tmp_path: Path) -> None:
    with pytest.raises(AdapterError) as error:
        load(bench.base(), tmp_path / "nowhere", child=child, cache=False)
    assert error.value.report.verdict == "incompatible"


# -------------------------------------------------------------------------------------------- a child that fails


def assert_undetermined(report: Report, says: str) -> None:
    assert (report.verdict, report.exit_code, report.examined, report.landed) == ("undetermined", 3, "static", None)
    assert says in report.summary, report.summary
    assert report.diagnosis.crashed == ()


def test_child_killed_while_it_starts_leaves_the_answer_open(bench: Bench, sound: Path) -> None:
    with LoadingChild(progress=lambda _: os.kill(pid_of(one), signal.SIGKILL)) as one:
        assert_undetermined(examine(bench.base(), sound, one), "killed (signal 9)")


def pid_of(child: LoadingChild) -> int:
    assert child._process is not None
    return child._process.pid


def test_child_killed_while_it_loads_leaves_the_answer_open_and_the_next_one_is_answered(
    bench: Bench, child: LoadingChild, sound: Path
) -> None:
    assert examine(bench.base(), sound, child).verdict == "compatible"
    first = pid_of(child)
    progress.react = lambda text: os.kill(pid_of(child), signal.SIGKILL) if text == "loading" else None
    try:
        assert_undetermined(examine(bench.base(), sound, child), "killed (signal 9)")
    finally:
        progress.react = lambda _: None
    assert examine(bench.base(), sound, child).verdict == "compatible"
    assert pid_of(child) != first


def test_time_limit_is_kept_and_the_child_is_gone(bench: Bench, sound: Path) -> None:
    with LoadingChild() as one:
        pids: list[int] = []
        one._progress = lambda _: pids.append(pid_of(one))
        began = time.monotonic()
        report = examine(bench.base(), sound, one, time_limit=0.5)
        assert time.monotonic() - began < 5

    assert_undetermined(report, "stopped after the time limit of 0.5 seconds")
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("python", "says"),
    [
        pytest.param("/nowhere/python", "could not be started", id="does not exist"),
        pytest.param("/", "could not be started", id="folder"),
        pytest.param("/etc/hostname", "could not be started", id="not executable"),
        pytest.param("/bin/true", "ended with code 0", id="does nothing"),
        pytest.param("/bin/false", "ended with code 1", id="fails"),
        pytest.param("/bin/echo", "", id="says something else"),
    ],
)
def test_interpreter_that_is_none_leaves_the_answer_open(python: str, says: str, bench: Bench, sound: Path) -> None:
    assert_undetermined(check(bench.base(), sound, python=python, cache=False, time_limit=20), says)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, capture_output=True)
    return folder / "bin" / "python"


def test_interpreter_without_torch_leaves_the_answer_open_and_says_what_is_missing(
    bench: Bench, sound: Path, bare_python: Path
) -> None:
    report = check(bench.base(), sound, python=str(bare_python), cache=False)

    assert_undetermined(report, "No module named")
    assert (report.environment["torch"], report.environment["peft"]) == (None, None)


def test_interpreter_that_talks_while_it_starts_is_understood(
    bench: Bench, sound: Path, bare_python: Path, tmp_path: Path
) -> None:
    """A .pth file or a sitecustomize that prints is no rarity."""
    talker = tmp_path / "python"
    talker.write_text(f'#!/bin/sh\necho "Welcome to the cluster!"\necho 5\nexec {bare_python} "$@"\n')
    talker.chmod(0o755)

    assert_undetermined(check(bench.base(), sound, python=str(talker), cache=False), "No module named")


def test_child_is_gone_when_the_check_is_over(bench: Bench, sound: Path) -> None:
    def children() -> set[str]:
        found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
        return set(found.read_text().split()) if found.exists() else set()

    before = children()
    check(bench.base(), sound, python="/bin/false", cache=False)

    assert children() <= before
