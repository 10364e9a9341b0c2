"""Whether `merge_and_unload` of an adapter into its base will be right, refused or inexact, and why.

Read in PEFT 0.21.2: `merge` of the tuners' layers, `LoraModel._check_merge_allowed`, the LoRA variants. Values are not
looked at: what the config, the names and the dtypes tell is known before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from adapter_doctor.facts import AdapterConfig, AdapterTensors, BaseConfig
from adapter_doctor.formats.module_widths import module_widths

Outcome = Literal["refused", "wrong", "unknown", "inexact", "exact"]
_ORDER: tuple[Outcome, ...] = ("refused", "wrong", "unknown", "inexact", "exact")

# Types whose layers cannot be merged: `merge` raises, or there is no layer to merge into.
UNMERGEABLE = frozenset(
    {"PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT",
     "POLY", "LILY", "SHADOW", "XLORA"}
)  # fmt: skip

# Quantised layers: can PEFT merge into them, and what becomes of the result.
_QUANTISED: dict[str, tuple[Outcome, str]] = {
    "bitsandbytes": ("inexact", "the sum is rounded to the base's few bits again"),
    "hqq": ("inexact", "the sum is rounded to the base's few bits again"),
    "eetq": ("refused", "PEFT raises AttributeError for eetq layers"),
    "gptq": ("refused", "PEFT raises ValueError: Cannot merge LORA layers when the model is gptq quantized"),
    "awq": ("refused", "PEFT raises NotImplementedError for awq layers"),
    "aqlm": ("refused", "PEFT raises NotImplementedError for aqlm layers"),
    "torchao": ("inexact", "the sum is rounded again, for int8 only; other layouts are refused"),
    "fp8": ("refused", "torch cannot add to float8 weights"),
}
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "shared", "tok_embeddings", "embed_out", "lm_head")


@dataclass(frozen=True, slots=True)
class Advice:
    """One reason; ``outcome`` says what it does to the merge, ``cure`` what to do about it (empty: nothing)."""

    outcome: Outcome
    why: str
    cure: str = ""


def overall(advice: tuple[Advice, ...]) -> Outcome:
    """The worst of the outcomes; `exact` where there is no reason against it."""
    return min((one.outcome for one in advice), key=_ORDER.index, default="exact")


def merging(config: AdapterConfig, tensors: AdapterTensors, base: BaseConfig) -> tuple[Advice, ...]:
    """The reasons, worst first."""
    found = [
        *_method(config),
        *_initialisation(config),
        *_base(base),
        *_embeddings(config, tensors, base),
        *_dtype(base),
    ]
    return tuple(sorted(found, key=lambda one: _ORDER.index(one.outcome)))


def _method(config: AdapterConfig) -> Iterator[Advice]:
    if config.peft_type in UNMERGEABLE:
        yield Advice(
            "refused", f"{config.peft_type} is no change of weights, so there is nothing to merge", "keep it apart"
        )
    if config.peft_type == "BEFT":
        yield Advice("unknown", "it adds to biases, and PEFT refuses where a targeted layer has none")
    if config.get("alora_invocation_tokens"):
        yield Advice("refused", "an activated LoRA is on for a part of the input only; PEFT raises", "keep it apart")
    if config.get("arrow_config"):
        yield Advice(
            "refused", "Arrow routes between adapters; PEFT raises", "merge the adapters that it routes between"
        )
    if config.get("use_qalora"):
        yield Advice("refused", "PEFT raises NotImplementedError for QA-LoRA", "keep it apart")
    if config.get("use_dora"):
        yield Advice(
            "inexact",
            "DoRA divides by the norm of the base's weights plus the update: right on the very base of the training,"
            " and off on another dtype or a quantised copy",
            "merge in float32 on the unquantised base of the training",
        )


def _initialisation(config: AdapterConfig) -> Iterator[Advice]:
    start = config.get("init_lora_weights")
    name = start.lower() if isinstance(start, str) else ""
    if name.startswith("pissa") or name == "olora":
        yield Advice(
            "wrong" if "niter" in name else "inexact",
            f"`init_lora_weights` is {start!r}: PEFT takes a part out of the base's weights at the load and adds the"
            " trained part back. Right through PEFT on the same weights and dtype"
            + (" and random state" if "niter" in name else "")
            + "; any other tool adds the adapter to the untouched base, which is wrong",
            "convert it once with `save_pretrained(DIR, path_initial_model_for_weight_conversion=…)`",
        )
    elif name.startswith("corda") or name in ("loftq", "lora_ga"):
        yield Advice(
            "wrong",
            f"`init_lora_weights` is {start!r}: training changed the base's weights, and the load does not repeat it",
            "merge into the base that the training saved beside the adapter",
        )


def _base(base: BaseConfig) -> Iterator[Advice]:
    method = base.quantization_method
    if method is not None:
        known = _QUANTISED.get(method, ("unknown", "whether PEFT can merge into it is not known"))
        yield Advice(known[0], f"the base is quantised with {method}: {known[1]}", "merge into the unquantised base")


def _embeddings(config: AdapterConfig, tensors: AdapterTensors, base: BaseConfig) -> Iterator[Advice]:
    tied = base.raw.get("tie_word_embeddings", base.text.get("tie_word_embeddings", base.model_type not in _UNTIED))
    if not tied or config.get("ensure_weight_tying"):
        return
    touched = sorted(name for name in module_widths(tensors) if name.rpartition(".")[2] in _EMBEDDINGS)
    if len(touched) == 1:
        yield Advice(
            "wrong",
            f"{touched[0]} is adapted and shares its weight with the other side: merging changes both",
            "untie them first: save the base with `tie_word_embeddings=False` and its own copy of the weight",
        )


_UNTIED = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "phi", "phi3", "gpt_neox", "gptj",
           "stablelm", "olmo", "olmo2")  # fmt: skip
"""Model types whose config class unties the embeddings where the file does not say (transformers 5)."""


def _dtype(base: BaseConfig) -> Iterator[Advice]:
    value = base.raw.get("dtype", base.raw.get("torch_dtype", base.text.get("dtype", base.text.get("torch_dtype"))))
    bits = {"bfloat16": 8, "float16": 11}.get(value if isinstance(value, str) else "")  # the hidden one included
    if bits:
        yield Advice(
            "inexact",
            f"the base is {value}: the sum is rounded to {bits} bits, which small updates do not survive whole",
            'load the base with `dtype="float32"`, merge, and convert the result',
        )
