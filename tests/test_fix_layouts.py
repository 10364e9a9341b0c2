"""Layers fused in one place and split in the other: the mended adapter changes the base's weights as the first did."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
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

SCALING = 1.5
PREFIX = "base_model.model."
Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    with LoadingChild() as one:
        yield one


def build(folder: Path, config: str, **sizes: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny.Tiny("", config, "AutoModelForCausalLM", "CAUSAL_LM", (), {**tiny.by_name("llama").sizes, **sizes}).build().save_pretrained(folder)  # fmt: skip
    return folder


def model(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def answer(one: Any) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = one(input_ids=torch.arange(3, 15).reshape(2, 6)).logits
    return output


def pair(out: int, into: int, rank: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rank, into) * 0.2, torch.randn(out, rank) * 0.2


def adapter(folder: Path, pairs: Pairs, **settings: Any) -> Path:
    folder.mkdir()
    state = {f"{PREFIX}{name}.lora_{half}.weight": value for name, both in pairs.items() for half, value in zip("AB", both, strict=True)}  # fmt: skip
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 3, "lora_dropout": 0.05, "target_modules": sorted({name.rpartition(".")[2] for name in pairs})}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder


def proven(base: Path, folder: Path, changed: Any, child: LoadingChild, place: Path) -> dict[str, Any]:
    """``changed`` is the base with the updates put into its weights by hand."""
    repair = fix(base, folder, place, child=child, cache=False)

    assert repair.state == "mended", str(repair)
    assert not torch.allclose(answer(model(base)), answer(changed), atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = peft.PeftModel.from_pretrained(model(base), place).eval()
    torch.testing.assert_close(answer(loaded), answer(changed), atol=1e-5, rtol=1e-5)
    told: dict[str, Any] = json.loads((place / "adapter_config.json").read_text())
    return told


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("missing", [(), ("k_proj",), ("k_proj", "v_proj", "up_proj")])
def test_split_updates_are_fused(missing: tuple[str, ...], rslora: bool, child: LoadingChild, tmp_path: Path) -> None:
    """An adapter of a Llama-like copy of Phi-3, on Phi-3 itself."""
    base = build(tmp_path / "base", "Phi3Config")
    torch.manual_seed(0)
    changed = model(base)
    rows = {"q_proj": (0, 32), "k_proj": (32, 48), "v_proj": (48, 64), "gate_proj": (0, 48), "up_proj": (48, 96)}
    pairs: Pairs = {}
    for number, layer in enumerate(changed.model.layers):
        for leaf, (start, stop) in rows.items():
            own = layer.self_attn.qkv_proj if stop <= 64 and leaf[0] in "qkv" else layer.mlp.gate_up_proj
            if leaf not in missing:
                part = "self_attn" if leaf[0] in "qkv" else "mlp"
                down, up = pairs[f"model.layers.{number}.{part}.{leaf}"] = pair(stop - start, 32)
                own.weight.data[start:stop] += (3 / 2**0.5 if rslora else SCALING) * up @ down
        down, up = pairs[f"model.layers.{number}.self_attn.o_proj"] = pair(32, 32)
        layer.self_attn.o_proj.weight.data += (3 / 2**0.5 if rslora else SCALING) * up @ down

    proven(base, adapter(tmp_path / "split", pairs, use_rslora=rslora), changed, child, tmp_path / "out")


def test_fused_updates_are_split(child: LoadingChild, tmp_path: Path) -> None:
    """An adapter of Phi-3 on a Llama-like copy of it."""
    base = build(tmp_path / "base", "LlamaConfig")
    torch.manual_seed(0)
    changed = model(base)
    pairs: Pairs = {}
    for number, layer in enumerate(changed.model.layers):
        for whole, modules in (
            ("self_attn.qkv_proj", [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]),
            ("mlp.gate_up_proj", [layer.mlp.gate_proj, layer.mlp.up_proj]),
        ):
            down, up = pairs[f"model.layers.{number}.{whole}"] = pair(sum(len(one.weight) for one in modules), 32)
            start = 0
            for one in modules:
                one.weight.data += SCALING * up[start : start + len(one.weight)] @ down
                start += len(one.weight)

    told = proven(base, adapter(tmp_path / "fused", pairs), changed, child, tmp_path / "out")

    assert told["target_modules"] == ["gate_proj", "k_proj", "q_proj", "up_proj", "v_proj"]


@pytest.mark.parametrize("attention", [True, False], ids=["with attention", "experts alone"])
def test_updates_of_single_experts_are_stacked(attention: bool, child: LoadingChild, tmp_path: Path) -> None:
    """An adapter of transformers 4 on Qwen2-MoE, whose experts PEFT drops without a word."""
    base = build(
        tmp_path / "base", "Qwen2MoeConfig", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=24, decoder_sparse_step=1,
    )  # fmt: skip
    torch.manual_seed(0)
    changed = model(base)
    pairs: Pairs = {}
    for number, layer in enumerate(changed.model.layers):
        experts = layer.mlp.experts
        for expert in range(4):
            at = f"model.layers.{number}.mlp.experts.{expert}"
            for leaf, target in (
                ("gate_proj", experts.gate_up_proj.data[expert, :16]),
                ("up_proj", experts.gate_up_proj.data[expert, 16:]),
                ("down_proj", experts.down_proj.data[expert]),
            ):
                down, up = pairs[f"{at}.{leaf}"] = pair(*target.shape)
                target += SCALING * up @ down
        if attention:
            down, up = pairs[f"model.layers.{number}.self_attn.q_proj"] = pair(32, 32)
            layer.self_attn.q_proj.weight.data += SCALING * up @ down

    told = proven(base, adapter(tmp_path / "single", pairs), changed, child, tmp_path / "out")

    assert told["target_parameters"] == ["experts.down_proj", "experts.gate_up_proj"]


def test_half_of_the_experts_are_not_stacked(child: LoadingChild, tmp_path: Path) -> None:
    base = build(
        tmp_path / "base", "Qwen2MoeConfig", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=24, decoder_sparse_step=1,
    )  # fmt: skip
    pairs = {f"model.layers.{layer}.mlp.experts.{expert}.down_proj": pair(32, 16) for layer in range(3) for expert in range(3)}  # fmt: skip

    repair = fix(base, adapter(tmp_path / "half", pairs), tmp_path / "out", child=child, cache=False)

    assert repair.state == "refused"
    assert "4 experts, and 3 have tensors" in repair.why


def test_layers_of_several_scalings_are_not_put_together(child: LoadingChild, tmp_path: Path) -> None:
    base = build(tmp_path / "base", "Phi3Config")
    pairs = {f"model.layers.{layer}.self_attn.{leaf}": pair(rows, 32) for layer in range(3) for leaf, rows in (("q_proj", 32), ("v_proj", 16))}  # fmt: skip

    repair = fix(base, adapter(tmp_path / "mixed", pairs, alpha_pattern={"v_proj": 9}), tmp_path / "out", child=child, cache=False)  # fmt: skip

    assert repair.state == "refused"
    assert "several scalings" in repair.why


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("parameters", [["experts.gate_up_proj", "experts.down_proj"], ["experts.down_proj"]], ids=len)
def test_factors_that_an_older_peft_laid_out_the_other_way_are_exchanged(
    parameters: list[str], child: LoadingChild, tmp_path: Path
) -> None:
    """What PEFT 0.17.1 gave here for a parameter of (3, 10, 6): A (6, 10), B (6, 6), and the update of the copy's factors."""
    base = build(
        tmp_path / "base", "MixtralConfig", num_local_experts=4, num_experts_per_tok=2, intermediate_size=48,
    )  # fmt: skip
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], target_parameters=parameters)
    adapted = peft.get_peft_model(model(base), config)
    for name, value in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value)
    adapted.save_pretrained(tmp_path / "new")
    state = load_file(tmp_path / "new" / "adapter_model.safetensors")
    old = dict(state)
    for key in [key for key in state if "experts" in key and "lora_A" in key]:
        other = key.replace("lora_A", "lora_B")
        down, up = state[key], state[other]
        old[key] = up.reshape(len(up), 2, 4).permute(2, 1, 0).reshape(8, len(up)).contiguous()
        old[other] = down.reshape(4, 2, -1).permute(2, 1, 0).reshape(-1, 8).contiguous()
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    save_file(old, tmp_path / "old" / "adapter_model.safetensors", metadata={"format": "pt"})
    repair = fix(base, tmp_path / "old", tmp_path / "out", child=child, cache=False)

    assert repair.state == "mended", repair.why
    assert repair.before.cause is not None
    assert repair.before.cause.rule.code == "AD224"
    mended = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert mended.keys() == state.keys()
    assert all(torch.equal(mended[key], state[key]) for key in state)
