"""An adapter and its base as serving engines meet them, and the traits by which engines tell adapters apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from adapter_doctor.facts import (
    AdapterConfig,
    AdapterFolder,
    AdapterTensors,
    BaseConfig,
    BaseCopies,
    BaseModules,
    Missing,
    WeightsFiles,
)
from adapter_doctor.formats.adapter_keys import AdapterKey, adapter_name, parse
from adapter_doctor.formats.declared_ranks import rank_of, scaling_of

TITLES: Mapping[str, str] = {
    "peft-folder": "the files as PEFT saves them",
    "pickle": "weights in `adapter_model.bin`",
    "other-method": "a PEFT type other than LoRA",
    "prompt": "a learnt prompt",
    "fields-missing": "a config without `r`, `lora_alpha` or `target_modules`",
    "fractional-alpha": "`lora_alpha` written with a decimal point",
    "target-pattern": "`target_modules` as a regular expression",
    "target-null": "`target_modules` null",
    "target-parameters": "`target_parameters`",
    "scaling": "the scaling (`use_rslora`, `alpha_pattern`, `rank_pattern`)",
    "uneven-ranks": "ranks that differ between modules",
    "rank-too-large": "a rank beyond the engine's largest",
    "dora": "DoRA",
    "bias": "trained biases of the base (`bias`)",
    "stray-bias": "biases that the config does not speak of",
    "lora-bias": "`lora_bias`",
    "init-changes-base": "an `init_lora_weights` that changes the base (PiSSA, OLoRA, CorDA, LoftQ)",
    "alora": "aLoRA",
    "layer-replication": "`layer_replication`",
    "qalora": "QALoRA",
    "bdlora": "BD-LoRA",
    "modules-to-save": "`modules_to_save` with more than a classification head",
    "trainable-tokens": "`trainable_token_indices`",
    "saved-head": "`lm_head` saved whole",
    "saved-embeddings": "`embed_tokens` saved whole",
    "saved-classifier": "a classification head saved whole",
    "saved-norm": "normalisation layers saved whole",
    "saved-other": "other modules saved whole, or names that no engine expects",
    "base-copies": "copies of the base's embeddings (`base_layer.weight`)",
    "base-copies-unread": "copies of the base's embeddings that could not be compared with the base",
    "more-rows": "more vocabulary rows than the base has",
    "added-tokens": "`added_tokens.json`",
    "embedding-lora": "LoRA on the embeddings",
    "embedding-lora-tied": "LoRA on the embeddings of a base with tied weights",
    "head-lora": "LoRA on `lm_head`",
    "head-lora-tied": "LoRA on `lm_head` of a base with tied weights",
    "per-expert": "LoRA on single experts",
    "expert-gaps": "LoRA on single experts, not on all of them",
    "stacked-experts": "LoRA on stacked experts",
    "experts-layout": "experts in the layout that the engine does not store",
    "tower-lora": "LoRA on a vision or audio tower",
    "router-lora": "LoRA on a router",
    "conv-lora": "LoRA on convolutions",
    "half-pair": "`lora_A` without `lora_B`, or the other way round",
    "adapter-name": "the adapter's name inside tensor names (`.default.`)",
    "no-prefix": "tensor names without `base_model.model.`",
    "other-path": "known modules under a path that the base does not have",
    "text-path": "names of the language model alone, on a base that wraps it",
    "layer-beyond": "layers that the base does not have",
    "unknown-module": "modules that the base does not have",
    "narrower": "tensors narrower than the base's modules",
    "wider": "tensors wider than the base's modules",
    "embedding-rows": "LoRA on embeddings with another number of rows than the base has",
    "some-layers": "modules adapted in some layers only",
    "q-without-v": "`q_proj` adapted without `v_proj`",
    "v-without-q": "`k_proj` or `v_proj` adapted without `q_proj`, or `up_proj` without `gate_proj`",
    "padded-rank": "a rank that the engine pads",
    "unserved-architecture": "an architecture that the engine does not serve with LoRA",
    "unknown-architecture": "an architecture that the profile does not know",
    "unserved-module": "modules that the engine does not adapt",
    "quantised": "a quantised base",
    "unseen-base": "a base whose module names are not known",
}
"""Every trait, as a reader would call it. A profile may tell kinds of one apart, after a colon: ``quantised:gptq``."""


@dataclass(frozen=True, slots=True)
class Trait:
    """A trait that the adapter has: the names of the tensors that bear it, and values for an engine's message."""

    name: str
    tensors: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Case:
    """An adapter and the base that it is to be served on, as far as both are known. A case equals only itself."""

    config: AdapterConfig
    tensors: AdapterTensors
    base: BaseConfig
    modules: BaseModules | Missing
    folder: AdapterFolder | Missing
    weights: WeightsFiles | Missing
    copies: BaseCopies | Missing

    @cached_property
    def keys(self) -> tuple[tuple[str, AdapterKey | None], ...]:
        """Every tensor's name, taken apart where it is an adapter's."""
        return tuple((name, parse(name)) for name in self.tensors)

    @cached_property
    def pairs(self) -> Mapping[str, Mapping[str, str]]:
        """The LoRA tensors by module path and half: ``{"model.layers.0.q_proj": {"A": name, "B": name}}``."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for name, key in self.keys:
            if key is None or adapter_name(key) is not None:
                continue
            if (key.parameter in ("lora_A", "lora_B") and key.tail == ".weight") or (
                key.parameter in ("lora_embedding_A", "lora_embedding_B") and not key.tail
            ):
                found[key.module][key.parameter[-1]] = name
        return found

    @cached_property
    def declared(self) -> Mapping[str, tuple[int, float]]:
        """The rank and the scaling that PEFT gives to each module with LoRA tensors.

        Raises:
            TypeError, ValueError: the config's ranks or alphas are of no use.
        """
        names = {module: parameter_name(module) for module in self.pairs}
        return {module: (rank_of(self.config, name), scaling_of(self.config, name)) for module, name in names.items()}

    @cached_property
    def tied(self) -> bool:
        """Whether the base's head is its embedding."""
        if isinstance(self.modules, BaseModules) and self.modules.tied:
            return True
        return bool(self.base.raw.get("tie_word_embeddings", self.base.text.get("tie_word_embeddings", False)))

    def rank(self, module: str) -> int:
        """The rank that a module's tensors have; 0 where there is no whole pair."""
        halves = self.pairs.get(module, {})
        shape = self.tensors.tensors[halves["A"]].shape if "A" in halves else ()
        return shape[0] if shape else 0

    def names(self, modules: set[str]) -> tuple[str, ...]:
        """The tensors of these modules."""
        return tuple(name for module in self.pairs if module in modules for name in self.pairs[module].values())


def parameter_name(module: str) -> str:
    """The name that PEFT's patterns are matched with: a stacked expert's parameter instead of its place in the file."""
    if module.endswith(".experts.base_layer"):
        return f"{module.removesuffix('.base_layer')}.gate_up_proj"
    return f"{module}.down_proj" if module.endswith(".experts") else module
