"""An adapter that loads: whether the base can compute with it is foretold as its first forward pass then turns out."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import tiny

from adapter_doctor import explain
from adapter_doctor.engine import Clear, Unknown, judge
from adapter_doctor.facts import Facts
from adapter_doctor.gather.load import read_answer
from adapter_doctor.loading import child
from adapter_doctor.rules import all_rules

torch = pytest.importorskip("torch")

LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
OTHERS = (
    tiny.Tiny("deepseek-v3", "DeepseekV3Config", tiny._LM, "CAUSAL_LM", (),
              tiny._decoder(**LATENT, num_key_value_heads=4, moe_intermediate_size=8, n_routed_experts=4, n_group=1,
                            topk_group=1, num_experts_per_tok=2, first_k_dense_replace=1)),
    tiny.Tiny("qwen3-next", "Qwen3NextConfig", tiny._LM, "CAUSAL_LM", (),
              tiny._decoder(num_hidden_layers=4, head_dim=8, num_experts=4, num_experts_per_tok=2, linear_num_key_heads=2,
                            linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
                            moe_intermediate_size=16, shared_expert_intermediate_size=16)),
    tiny.Tiny("falcon-new", "FalconConfig", tiny._LM, "CAUSAL_LM", (),
              {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_kv_heads": 2,
               "new_decoder_architecture": True}),
    tiny.Tiny("falcon-all-heads", "FalconConfig", tiny._LM, "CAUSAL_LM", (),
              {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": False}),
    tiny.Tiny("bigcode", "GPTBigCodeConfig", tiny._LM, "CAUSAL_LM", (),
              {"vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    tiny.Tiny("bart-deep-decoder", "BartConfig", "AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", (),
              {**tiny.by_name("bart").sizes, "decoder_layers": 4}),
    tiny.Tiny("bart-deep-encoder", "BartConfig", "AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", (),
              {**tiny.by_name("bart").sizes, "encoder_layers": 4}),
    tiny.Tiny("flan-t5-small", "T5Config", "AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", (),
              {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 3,
               "decoder_start_token_id": 0}),
)  # fmt: skip


ASKED = [one for one in (*tiny.ARCHITECTURES, *OTHERS) if one.name not in ("mamba", "distilbert")]
"""Of those two PEFT itself asks the user for the number of heads or the width."""


def with_prefix(base: Any, task: str, **sizes: int) -> Any:
    from peft import PrefixTuningConfig, get_peft_model

    return get_peft_model(base, PrefixTuningConfig(task_type=task, num_virtual_tokens=3, **sizes)).eval()


def foretold(model: Any) -> str:
    return str(child.pass_refused(model, "default"))  # type: ignore[no-untyped-call]  # "None" where it is not known


def what_the_pass_says(model: Any) -> str:
    ids = torch.tensor([[5, 6, 7, 8]])
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    try:
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def explained(model: Any) -> list[str]:
    """The rules that the traceback of the pass is told to speak of."""
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([[5, 6, 7, 8]]))
    except Exception:
        return [finding.rule.code for finding in explain(traceback.format_exc()).findings]
    raise AssertionError("the pass went well")


def variants(base: Any, task: str) -> dict[str, dict[str, int]]:
    made = with_prefix(base, task).peft_config["default"]
    heads, width = made.num_attention_heads, made.token_dim
    return {
        "as PEFT makes it": {},
        "half the heads": {"num_attention_heads": max(1, heads // 2), "token_dim": width},
        "twice the width": {"num_attention_heads": heads, "token_dim": width * 2},
        "all heads": {"num_attention_heads": 4, "token_dim": 32},
        "one head": {"num_attention_heads": 1, "token_dim": 8},
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", ASKED, ids=lambda one: one.name)
def test_a_pass_is_foretold_to_fail_if_and_only_if_it_fails(recipe: tiny.Tiny) -> None:
    wrong = {}
    for name, more in variants(recipe.build(), recipe.task).items():
        model = with_prefix(recipe.build(), recipe.task, **more)
        told, real = foretold(model), what_the_pass_says(model)
        if bool(told) != bool(real):
            wrong[name] = (told, real)

    assert wrong == {}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "code"), [("qwen3-next", "AD509"), ("deepseek-v3", "AD306"), ("falcon", "AD306")])
def test_the_traceback_of_a_prefix_that_fails_is_explained(name: str, code: str) -> None:
    recipe = next(one for one in (*OTHERS, *tiny.ARCHITECTURES) if one.name == name)

    assert explained(with_prefix(recipe.build(), recipe.task)) == [code]


@pytest.mark.filterwarnings("ignore")
def test_a_prefix_that_the_base_passes_by_is_told_and_changes_no_output() -> None:
    sizes = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 8,
             "n_groups": 1, "chunk_size": 8}  # fmt: skip
    recipe = tiny.Tiny("mamba2", "Mamba2Config", tiny._LM, "CAUSAL_LM", (), sizes)
    model = with_prefix(recipe.build(), "CAUSAL_LM", num_attention_heads=8, token_dim=64)
    ids = torch.tensor([[5, 6, 7, 8]])

    assert "takes no `past_key_values`" in foretold(model)
    with torch.no_grad(), model.disable_adapter():
        bare = model(input_ids=ids).logits
    assert torch.equal(model(input_ids=ids).logits[:, -4:], bare)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "falcon", "bert"])
def test_prompts_that_are_embeddings_and_lora_are_never_refused(name: str) -> None:
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    recipe = tiny.by_name(name)
    for config in (
        PromptTuningConfig(task_type=recipe.task, num_virtual_tokens=3),
        LoraConfig(task_type=recipe.task, target_modules=list(recipe.leaves)),
    ):
        model = get_peft_model(recipe.build(), config).eval()
        assert (foretold(model), what_the_pass_says(model)) == ("", "")


ROUTERS = (
    tiny.Tiny("llama4", "Llama4TextConfig", tiny._LM, "CAUSAL_LM", (),
              tiny._decoder(num_hidden_layers=2, head_dim=8, num_local_experts=4, num_experts_per_tok=1,
                            intermediate_size_mlp=48, interleave_moe_layer_step=1)),
    tiny.Tiny("phimoe", "PhimoeConfig", tiny._LM, "CAUSAL_LM", (),
              tiny._decoder(num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2)),
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", ROUTERS, ids=lambda one: one.name)
@pytest.mark.parametrize("kind", ["LoraConfig", "IA3Config", "LoHaConfig", "OFTConfig", "VeraConfig"])
def test_a_layer_that_is_linear_by_its_class_alone_is_told(kind: str, recipe: tiny.Tiny) -> None:
    import peft

    needed: dict[str, dict[str, Any]] = {"IA3Config": {"feedforward_modules": []}, "OFTConfig": {"oft_block_size": 4}}
    for targets, failing in ((["q_proj", "router"], True), (["q_proj"], False)):
        config = getattr(peft, kind)(task_type="CAUSAL_LM", target_modules=targets, **needed.get(kind, {}))
        model = peft.get_peft_model(recipe.build(), config).eval()

        assert bool(what_the_pass_says(model)) == failing
        assert not failing or explained(model) == ["AD509"]
        assert ("router is a" in foretold(model)) == failing


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "recipe",  # of those left out PEFT itself refuses one of all linear layers
    [one for one in (*tiny.ARCHITECTURES, *ROUTERS) if one.name not in ("mamba", "distilbert", "deberta-v2")],
    ids=lambda one: one.name,
)
def test_all_linear_layers_are_told_as_the_pass_turns_out(recipe: tiny.Tiny) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(recipe.build(), LoraConfig(task_type=recipe.task, target_modules="all-linear")).eval()

    assert bool(foretold(model)) == bool(what_the_pass_says(model)) == (recipe in ROUTERS)


TWO_DEPTHS = (
    tiny.Tiny("t5", "T5Config", "AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", (),
              {**tiny.by_name("t5").sizes, "num_layers": 4, "num_decoder_layers": 2}),
    tiny.Tiny("bart", "BartConfig", "AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", (),
              {**tiny.by_name("bart").sizes, "encoder_layers": 4, "decoder_layers": 2}),
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", TWO_DEPTHS, ids=lambda one: one.name)
def test_of_two_halves_the_decoder_counts(recipe: tiny.Tiny) -> None:
    model = with_prefix(recipe.build(), recipe.task, num_layers=2)

    assert (foretold(model), what_the_pass_says(model)) == ("", "")


@pytest.mark.filterwarnings("ignore")
def test_a_forward_that_passes_its_arguments_on_is_not_judged_by_their_names() -> None:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import LlamaForCausalLM

    class Wrapped(LlamaForCausalLM):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    base = tiny.by_name("llama").build()
    for model in (
        with_prefix(Wrapped(base.config), "CAUSAL_LM"),
        get_peft_model(Wrapped(base.config), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval(),
    ):
        assert (foretold(model), what_the_pass_says(model)) == ("", "")


@pytest.mark.filterwarnings("ignore")
def test_a_cache_that_is_not_known_leaves_the_verdict_open_unless_the_pass_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = with_prefix(tiny.by_name("llama").build(), "CAUSAL_LM")
    monkeypatch.setattr(child, "cache_of", lambda _: None)
    told = child.pass_refused(model, "default")  # type: ignore[no-untyped-call]
    (rule,) = (one for one in all_rules() if one.code == "AD509")

    for run, kind in (({}, Unknown), ({"run": {"difference": 1.0, "finite": True, "finite_without": True}}, Clear)):
        facts = read_answer(Facts(), {"pass_refused": told, "places": {}, **run}, "full")
        assert isinstance(judge([rule], facts)[0], kind)
