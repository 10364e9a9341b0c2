"""What `inspect` says of merging is what PEFT and torch do: each outcome is provoked on a tiny model."""

from __future__ import annotations

import copy
from typing import Any

import peft_types
import pytest
import tiny

from adapter_doctor.facts import AdapterConfig, AdapterTensors, BaseConfig, TensorInfo
from adapter_doctor.merging import _UNTIED, UNMERGEABLE, merging, overall

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")
IDS = torch.tensor([[1, 5, 7, 9]])


def adapted(base: str = "llama", kind: str = "LORA", dtype: Any = torch.float32, **options: Any) -> Any:
    model = tiny.by_name(base).build().to(dtype).eval()
    wanted = {**(peft_types.OPTIONS[kind]), **options}
    model = peft.get_peft_model(model, peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind](task_type="CAUSAL_LM", **wanted))
    tiny.train_by_chance(model)
    return model.eval()


def foretold(model: Any) -> str:
    config = AdapterConfig(copy.deepcopy(model.peft_config["default"].to_dict()) | {"peft_type": _kind(model)})
    state = {key: TensorInfo("F32", tuple(one.shape)) for key, one in peft.get_peft_model_state_dict(model).items()}
    base = BaseConfig({**model.base_model.config.to_dict(), "dtype": str(model.dtype).removeprefix("torch.")})
    return overall(merging(config, AdapterTensors("", state), base))


def _kind(model: Any) -> str:
    return str(model.peft_config["default"].peft_type.value)


def change(model: Any) -> float:
    """The largest change of the logits by merging."""
    with torch.no_grad():
        before = model(IDS).logits
        return float((model.merge_and_unload()(IDS).logits - before).abs().max())


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"lora_alpha": 32}])
def test_exact_is_exact(options: dict[str, Any]) -> None:
    model = adapted(**options)

    assert foretold(model) == "exact"
    assert change(model) < 1e-4


def test_half_precision_is_inexact() -> None:
    model = adapted(dtype=torch.bfloat16)

    assert foretold(model) == "inexact"
    assert change(model) > 1e-4


def test_one_side_of_tied_embeddings_comes_out_wrong() -> None:
    for leaf in ("embed_tokens", "lm_head"):
        model = adapted("llama-tied", target_modules=[leaf])

        assert foretold(model) == "wrong"
        assert change(model) > 1e-2


def test_one_side_of_untied_embeddings_comes_out_right() -> None:
    model = adapted(target_modules=["lm_head"])

    assert foretold(model) == "exact"
    assert change(model) < 1e-4


def test_residual_start_is_right_through_peft_and_wrong_on_the_untouched_base() -> None:
    model = adapted(init_lora_weights="pissa")
    untouched = tiny.by_name("llama").build().state_dict()
    name = "model.layers.0.self_attn.q_proj"

    assert foretold(model) == "inexact"
    delta = model.base_model.model.get_submodule(name).get_delta_weight("default")
    merged = model.merge_and_unload().state_dict()[f"{name}.weight"]
    assert not torch.allclose(untouched[f"{name}.weight"] + delta, merged, atol=1e-3)


def test_activated_lora_is_refused() -> None:
    model = adapted(alora_invocation_tokens=[5])

    assert foretold(model) == "refused"
    with pytest.raises(NotImplementedError):
        model.merge_and_unload()


@pytest.mark.parametrize("kind", sorted(peft_types.OPTIONS))
def test_types_are_refused_that_peft_refuses(kind: str) -> None:
    if kind in ("ADAMSS", "FROD", "SHIRA", "OSF"):
        pytest.skip("made of the base's values, and slow to make")
    model = adapted(kind=kind)
    outcome = foretold(model)
    try:
        model.merge_and_unload()
    except Exception:
        refused = True
    else:
        refused = False

    assert outcome == "unknown" or refused == (outcome == "refused")
    assert refused == (kind in UNMERGEABLE) or kind == "BEFT"


def test_float8_weights_take_no_sum() -> None:
    weight = torch.zeros(2, 2).to(torch.float8_e4m3fn)

    with pytest.raises((RuntimeError, NotImplementedError)):
        weight.data += torch.ones(2, 2)


@pytest.mark.parametrize("model_type", _UNTIED)
def test_embeddings_are_untied_where_the_config_does_not_say(model_type: str) -> None:
    from transformers import CONFIG_MAPPING

    assert CONFIG_MAPPING[model_type]().tie_word_embeddings is False
