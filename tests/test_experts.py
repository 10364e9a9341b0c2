"""Adapters trained on single experts, on bases whose experts transformers now fuses: what PEFT carries over, and what not."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from adapter_doctor import Report, check
from adapter_doctor.loading.process import LoadingChild

pytestmark = pytest.mark.filterwarnings("ignore")
RANK = 4
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128,
    "num_experts_per_tok": 2,
}  # fmt: skip
Shapes = dict[str, tuple[int, int]]


def modules(layers: range, at: str, shapes: Mapping[str, tuple[int, int]]) -> Shapes:
    """(out, in) of these modules below ``at``, in each layer and, where ``at`` says {e}, of each of four experts."""
    return {
        f"model.layers.{layer}.{at.format(e=expert)}.{name}": shape
        for layer in layers
        for expert in range(4 if "{e}" in at else 1)
        for name, shape in shapes.items()
    }


ATTENTION = modules(range(2), "self_attn", {"q_proj": (32, 32), "v_proj": (16, 32)})
MIXTRAL = modules(range(2), "block_sparse_moe.experts.{e}", {"w1": (64, 32), "w2": (32, 64), "w3": (64, 32)})
QWEN = modules(range(1, 2), "mlp.experts.{e}", {"gate_proj": (48, 32), "up_proj": (48, 32), "down_proj": (32, 48)})
DENSE = modules(range(1), "mlp", {"gate_proj": (64, 32), "up_proj": (64, 32), "down_proj": (32, 64)})
W, GATES = ["q_proj", "v_proj", "w1", "w2", "w3"], ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    with LoadingChild() as started:
        yield started


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import transformers

    root = tmp_path_factory.mktemp("bases")
    recipes: dict[str, dict[str, Any]] = {
        "Mixtral": {"num_local_experts": 4, "num_hidden_layers": 2},
        "Qwen3Moe": {
            "num_experts": 4, "num_hidden_layers": 2, "head_dim": 8, "moe_intermediate_size": 48, "mlp_only_layers": [0]
        },
        "Qwen2Moe": {
            "num_experts": 4, "num_hidden_layers": 2, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 64,
        },
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, sizes in recipes.items():
            config = getattr(transformers, f"{name}Config")(**SIZES, **sizes)
            getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(root / name)
    return {name: root / name for name in recipes}


def adapter(folder: Path, shapes: Shapes, **config: Any) -> Path:
    """A trained-looking LoRA on these modules, as PEFT saved it under transformers 4."""
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(0)
    state = {}
    for name, (out, into) in shapes.items():
        state[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, into, generator=random)
        state[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, RANK, generator=random)
    folder.mkdir()
    save_file(state, folder / "adapter_model.safetensors")
    whole = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 8, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(whole))
    return folder


def codes(report: Report) -> list[str]:
    return [one.rule.code for one in report.findings if one.consequence_of is None and one.rule.severity >= 2]


@pytest.mark.parametrize(
    ("base", "shapes", "config"),
    [
        pytest.param("Mixtral", {**ATTENTION, **MIXTRAL}, {"target_modules": W}, id="experts and attention"),
        pytest.param("Mixtral", ATTENTION, {"target_modules": W[:2]}, id="attention alone"),
        pytest.param("Qwen3Moe", {**ATTENTION, **QWEN}, {"target_modules": GATES}, id="experts beside a dense layer"),
    ],
)
def test_experts_that_peft_carries_over_are_compatible(
    base: str, shapes: Shapes, config: dict[str, Any], bases: dict[str, Path], child: LoadingChild, tmp_path: Path
) -> None:
    report = check(
        bases[base], adapter(tmp_path / "a", shapes, base_model_name_or_path=str(bases[base]), **config), child=child
    )

    assert (report.verdict, codes(report)) == ("compatible", [])
    assert report.landed is not None
    assert report.landed["landed"] == 2 * len(shapes)


@pytest.mark.parametrize(
    ("base", "shapes", "config", "code", "ignored"),
    [
        pytest.param(
            "Mixtral", {**ATTENTION, **MIXTRAL}, {"target_modules": W, "lora_dropout": 0.1}, "AD113", None, id="dropout"
        ),
        pytest.param(
            "Mixtral", {**ATTENTION, **MIXTRAL},
            {"target_modules": r".*\.(q_proj|v_proj|block_sparse_moe\.experts\.\d+\.w[123])"}, "AD319", 48, id="a regex with the old path",
        ),
        pytest.param(
            "Mixtral", {name: one for name, one in {**ATTENTION, **MIXTRAL}.items() if not name.endswith("w3")},
            {"target_modules": W[:-1]}, "AD319", None, id="one half of a fused pair",
        ),
        pytest.param(
            "Qwen2Moe", {**ATTENTION, **QWEN}, {"target_modules": GATES}, "AD319", 24, id="a type whose config PEFT leaves"
        ),
        pytest.param(
            "Qwen3Moe", {**ATTENTION, **QWEN, **DENSE}, {"target_modules": GATES}, "AD319", 6, id="a dense layer's tensors"
        ),
    ],
)  # fmt: skip
def test_what_peft_drops_or_refuses_is_the_cause(
    base: str, shapes: Shapes, config: dict[str, Any], code: str, ignored: int | None, bases: dict[str, Path],
    child: LoadingChild, tmp_path: Path,
) -> None:  # fmt: skip
    report = check(
        bases[base], adapter(tmp_path / "a", shapes, base_model_name_or_path=str(bases[base]), **config), child=child
    )

    assert (report.verdict, codes(report)) == ("incompatible", [code])
    assert (report.landed or {}).get("ignored") == ignored


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"use_rslora": True}, "AD508"),
        ({"alpha_pattern": {"w1": 32}}, "AD110"),
        ({"rank_pattern": {"w2": RANK}}, "AD110"),
    ],
)
def test_scaling_that_is_lost_with_the_conversion_is_a_warning(
    config: dict[str, Any], code: str, bases: dict[str, Path], child: LoadingChild, tmp_path: Path
) -> None:
    made = adapter(
        tmp_path / "a", {**ATTENTION, **MIXTRAL}, target_modules=W, base_model_name_or_path=str(bases["Mixtral"]), **config
    )  # fmt: skip
    report = check(bases["Mixtral"], made, child=child)

    assert (report.verdict, codes(report)) == ("compatible", [code])
