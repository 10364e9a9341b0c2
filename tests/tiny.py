"""Tiny random base models of many architectures, and the PEFT configs that suit them: what tests and scripts build on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

VOCABULARY = 128


@dataclass(frozen=True)
class Tiny:
    """A recipe for a tiny model: config class, its arguments, auto class, task, and leaf names of its linear layers."""

    name: str
    config: str
    auto: str
    task: str
    leaves: tuple[str, ...]
    sizes: dict[str, Any]

    def build(self, seed: int = 0) -> Any:
        """A model with random weights, the same for the same seed."""
        import torch
        import transformers

        torch.manual_seed(seed)
        config = getattr(transformers, self.config)(**self.sizes)
        return getattr(transformers, self.auto).from_config(config)


def _decoder(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, **more,
    }  # fmt: skip


def _encoder(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0, **more,
    }  # fmt: skip


_QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_LM = "AutoModelForCausalLM"
_CLS = "AutoModelForSequenceClassification"

ARCHITECTURES: tuple[Tiny, ...] = (
    Tiny("llama", "LlamaConfig", _LM, "CAUSAL_LM", _QKVO + _MLP, _decoder()),
    Tiny("llama-tied", "LlamaConfig", _LM, "CAUSAL_LM", _QKVO + _MLP, _decoder(tie_word_embeddings=True)),
    Tiny("mistral", "MistralConfig", _LM, "CAUSAL_LM", _QKVO + _MLP, _decoder(head_dim=8)),
    Tiny("qwen2", "Qwen2Config", _LM, "CAUSAL_LM", _QKVO + _MLP, _decoder()),
    Tiny("qwen3", "Qwen3Config", _LM, "CAUSAL_LM", _QKVO + _MLP, _decoder(head_dim=16)),
    Tiny("gemma2", "Gemma2Config", _LM, "CAUSAL_LM", _QKVO + _MLP, _decoder(head_dim=8)),
    Tiny("gemma3", "Gemma3TextConfig", _LM, "CAUSAL_LM", _QKVO + _MLP, _decoder(head_dim=8)),
    Tiny("phi", "PhiConfig", _LM, "CAUSAL_LM", ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"), _decoder()),
    Tiny("phi3", "Phi3Config", _LM, "CAUSAL_LM", ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), _decoder()),
    Tiny("stablelm", "StableLmConfig", _LM, "CAUSAL_LM", _QKVO + _MLP, _decoder()),
    Tiny("starcoder2", "Starcoder2Config", _LM, "CAUSAL_LM", (*_QKVO, "c_fc", "c_proj"), _decoder()),
    Tiny("granite", "GraniteConfig", _LM, "CAUSAL_LM", _QKVO + _MLP, _decoder()),
    Tiny("olmo2", "Olmo2Config", _LM, "CAUSAL_LM", _QKVO + _MLP, _decoder()),
    Tiny("cohere", "CohereConfig", _LM, "CAUSAL_LM", _QKVO + _MLP, _decoder()),
    Tiny("mixtral", "MixtralConfig", _LM, "CAUSAL_LM", _QKVO, _decoder(num_local_experts=4, num_experts_per_tok=2)),
    Tiny("qwen3-moe", "Qwen3MoeConfig", _LM, "CAUSAL_LM", _QKVO,
         _decoder(head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)),
    Tiny("gpt2", "GPT2Config", _LM, "CAUSAL_LM", ("c_attn", "c_proj", "c_fc"),
         {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1,
          "eos_token_id": 2}),
    Tiny("gpt-neox", "GPTNeoXConfig", _LM, "CAUSAL_LM",
         ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"), _decoder()),
    Tiny("gptj", "GPTJConfig", _LM, "CAUSAL_LM", ("q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"),
         {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4}),
    Tiny("opt", "OPTConfig", _LM, "CAUSAL_LM", ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
         {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
          "max_position_embeddings": 64, "word_embed_proj_dim": 32}),
    Tiny("bloom", "BloomConfig", _LM, "CAUSAL_LM", ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
         {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    Tiny("falcon", "FalconConfig", _LM, "CAUSAL_LM", ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
         {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    Tiny("mamba", "MambaConfig", _LM, "CAUSAL_LM", ("x_proj", "in_proj"),
         {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    Tiny("t5", "T5Config", "AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", ("q", "k", "v", "o", "wi", "wo"),
         {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
          "decoder_start_token_id": 0}),
    Tiny("bart", "BartConfig", "AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM",
         ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
         {"vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
          "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64}),
    Tiny("bert", "BertConfig", _CLS, "SEQ_CLS", ("query", "key", "value", "dense"), _encoder(num_labels=3)),
    Tiny("roberta", "RobertaConfig", _CLS, "SEQ_CLS", ("query", "key", "value"), _encoder(num_labels=3)),
    Tiny("distilbert", "DistilBertConfig", _CLS, "SEQ_CLS", ("q_lin", "k_lin", "v_lin", "out_lin"),
         {"vocab_size": VOCABULARY, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "num_labels": 3,
          "max_position_embeddings": 64}),
    Tiny("deberta-v2", "DebertaV2Config", "AutoModelForTokenClassification", "TOKEN_CLS",
         ("query_proj", "key_proj", "value_proj"), _encoder(num_labels=5, type_vocab_size=0)),
    Tiny("llama-cls", "LlamaConfig", _CLS, "SEQ_CLS", _QKVO + _MLP, _decoder(num_labels=3)),
)  # fmt: skip


def by_name(name: str) -> Tiny:
    """The recipe of this name."""
    return next(one for one in ARCHITECTURES if one.name == name)


def train_by_chance(model: Any, amount: float = 0.05, seed: int = 1) -> None:
    """Move every trainable parameter a little, so that the adapter looks trained."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * amount)


Change = Callable[[Any], Any]
