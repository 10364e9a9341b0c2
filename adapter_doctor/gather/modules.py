"""Derive a base model's modules from the tensor names and shapes of its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping

from adapter_doctor import knowledge
from adapter_doctor.facts import BaseCheckpoint, BaseConfig, BaseModules, Missing, Module, Shape

_EMBEDDINGS = re.compile(
    r"^(embed_tokens|wte|wpe|word_embeddings|position_embeddings|token_type_embeddings|shared|embed_positions|embed_in"
    r"|embeddings|tok_embeddings|relative_attention_bias|embed_dim|positions_embed|tokens_embed|embedding)$"
)
_TASK_CLASSES = ("CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
_PACKED = (".qweight", ".weight_packed", ".absmax", ".SCB", ".weight_scale", ".qzeros", ".weight_scale_inv")


def modules_from_checkpoint(config: BaseConfig, checkpoint: BaseCheckpoint, task_type: str) -> BaseModules | Missing:
    """The modules as the checkpoint's names give them, or why they cannot be had from there.

    Modules without parameters of their own (activations, dropout) are known only as far as they contain others.
    """
    if any(name.endswith(_PACKED) for name in checkpoint.tensors):
        return Missing("the base's weights are packed by their quantisation; their shapes are not those of the layers")
    architecture = knowledge.architecture(config.model_type)
    if architecture is None:
        return Missing(
            f"model_type {config.model_type!r} is not known, so the checkpoint's names may not be the model's"
        )
    prefix = architecture.prefix_for(task_type)
    wanted = architecture.classes.get(task_type) if task_type in _TASK_CLASSES else None
    headless = (wanted or next(iter(config.architectures), "")) == architecture.classes.get("BASE")
    if task_type == "FEATURE_EXTRACTION":
        headless = True
    if wanted and task_type in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS") and wanted not in config.architectures:
        return Missing(f"the checkpoint is not a {wanted}, so its names lack the head that is put on for {task_type}")
    # An encoder-decoder holds its two halves at the top; every other model with a head holds its body under a prefix,
    # which checkpoints of the bare body (and old ones, GPT-2's above all) lack.
    bare = not config.raw.get("is_encoder_decoder") and architecture.classes.get("SEQ_2_SEQ_LM") is None
    parameters: dict[str, dict[str, Shape]] = {}
    inside = any(name.startswith(f"{prefix}.") for name in checkpoint.tensors) if prefix else False
    for name, info in checkpoint.tensors.items():
        module, _, own = name.rpartition(".")
        if inside and headless and module.startswith(f"{prefix}."):
            module = module[len(prefix) + 1 :]
        elif prefix and bare and not inside and not headless:
            module = f"{prefix}.{module}"
        parameters.setdefault(module, {})[own] = info.shape
    tied = bool(config.raw.get("tie_word_embeddings", config.text.get("tie_word_embeddings", True)))
    head = _head(parameters, config, tied, headless)
    modules: dict[str, Module] = {}
    for name in parameters:
        parts = name.split(".")
        for depth in range(len(parts)):
            modules.setdefault(".".join(parts[:depth]), Module("other"))
        own = parameters[name]
        modules[name] = Module(_kind(name, own, config, architecture.conv1d), own)
    return BaseModules(modules, "checkpoint", wanted or next(iter(config.architectures), ""), head, tied)


def _head(parameters: dict[str, dict[str, Shape]], config: BaseConfig, tied: bool, headless: bool) -> str | None:
    """The output head's name. A tied head is not in the checkpoint: it is put back with the embedding's shape."""
    if headless:
        return None
    rows = config.number("vocab_size")
    for name in ("lm_head", "embed_out", "output", "cls.predictions.decoder"):
        if name in parameters:
            return name
    if (
        not tied
        or rows is None
        or not any("CausalLM" in one or "Conditional" in one or "LMHead" in one for one in config.architectures)
    ):
        return None
    for own in list(parameters.values()):
        weight = own.get("weight")
        if weight is not None and len(weight) == 2 and weight[0] == rows:
            parameters["lm_head"] = {"weight": weight}
            return "lm_head"
    return None


def _kind(name: str, own: Mapping[str, Shape], config: BaseConfig, conv1d: bool) -> str:
    weight = own.get("weight")
    if weight is None:
        return "other"
    last = name.rpartition(".")[2]
    if len(weight) == 1:
        return "norm"
    if len(weight) == 2:
        if _EMBEDDINGS.match(last):
            return "embedding"
        return "conv1d" if conv1d and last.startswith(("c_", "q_attn")) else "linear"
    return {3: "conv1", 4: "conv2", 5: "conv3"}.get(len(weight), "other")
