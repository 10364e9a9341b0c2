"""AD321: quantisation not taken."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor import knowledge
from adapter_doctor.facts import AdapterConfig, BaseConfig, BaseModules, Environment, LoadOutcome, Missing
from adapter_doctor.findings import Hit, Severity, Undecided
from adapter_doctor.rules import rule

# Quantisations for which PEFT 0.21.2 has layers of a method: its dispatchers (tuners/*/model.py, tuners/lora/*.py) and,
# for those that ask `resolve_quantization_backend` (utils/quantization_utils.py), all backends there.
_BACKENDS = frozenset({"bitsandbytes", "hqq", "torchao", "aqlm", "eetq", "gptq", "awq", "auto-round"})
_TAKES = {
    "LORA": _BACKENDS, "XLORA": _BACKENDS, "BOFT": _BACKENDS, "MISS": _BACKENDS, "OFT": _BACKENDS, "SHIRA": _BACKENDS,
    "VERA": _BACKENDS, "ADALORA": frozenset({"bitsandbytes", "gptq"}), "IA3": frozenset({"bitsandbytes"}),
    "PVERA": frozenset({"bitsandbytes"}), "RANDLORA": frozenset({"bitsandbytes"}),
    "HIRA": frozenset({"bitsandbytes", "torchao"}), "ROAD": frozenset({"bitsandbytes", "torchao"}),
}  # fmt: skip
# They put nothing in place of a quantised layer.
_BESIDE = frozenset({
    "PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT",
    "LN_TUNING", "TRAINABLE_TOKENS",
})  # fmt: skip
# Their layers are torch.nn.Linear to PEFT, which LoRA adapts like any other (transformers 5.23's integrations).
_STAYS_LINEAR = frozenset({
    "bitsandbytes", "fp8", "fbgemm_fp8", "compressed-tensors", "torchao", "quanto", "modelopt", "mxfp4",
})  # fmt: skip
# Their layers are classes of their own, and no torch.nn.Linear (the same, and gptqmodel's BaseQuantLinear).
_OWN_LAYERS = frozenset({"gptq", "awq", "aqlm", "eetq", "hqq", "vptq", "higgs", "spqr", "auto-round", "nvfp4"})
_READ_FROM = "0.21.2"
_SKIPPED = ("modules_to_not_convert", "llm_int8_skip_modules", "ignore", "skip_modules")
_NEVER_QUANTISED = ("lm_head", "embed_tokens", "wte", "score", "classifier", "norm")


@rule("AD321", Severity.ERROR, explains=("AD5",))
def quantisation_not_taken(
    config: AdapterConfig,
    base: BaseConfig,
    modules: BaseModules | Missing,
    outcome: LoadOutcome | Missing,
    environment: Environment | Missing,
) -> Iterator[Hit]:
    """PEFT has no layer of this method for the base's quantisation.

    A skeleton stands for the unquantised layers, so this is told from what PEFT's own dispatchers take.

    ## Why it matters
    GPTQ, AWQ, HQQ and others replace linear layers by classes of their own; a method that has no counterpart for them
    raises, or, where the layer still counts as linear, computes with packed weights.

    ## Common causes
    The adapter was trained on the unquantised base, and a quantised copy of it is used for inference.

    ## Fix
    Use the unquantised base, or quantise with bitsandbytes and train LoRA.
    """
    method = (base.quantization_method or "").removesuffix("_4bit").removesuffix("_8bit")
    kind = config.peft_type
    real = isinstance(outcome, LoadOutcome) and outcome.extent == "full" and outcome.refusal is None
    if not method or kind in _BESIDE or real or _in_memory(modules) or _spares(config, base):
        return
    if method in _TAKES.get(kind, ()) or (method in _STAYS_LINEAR and kind in ("LORA", "XLORA")):
        return
    if method in _OWN_LAYERS and not _newer(environment):
        yield Hit(
            f"the base's linear layers are {method}'s own, and PEFT has none of {kind} for them",
            where="config.json",
        )
        return
    raise Undecided(f"whether {kind} works on layers quantised with {method} was not tried; --load full would")


def _in_memory(modules: BaseModules | Missing) -> bool:
    return isinstance(modules, BaseModules) and modules.origin == "memory"


def _spares(config: AdapterConfig, base: BaseConfig) -> bool:
    """Whether everything that is targeted by name is left unquantised."""
    targets = config.get("target_modules")
    spared = {*_NEVER_QUANTISED}
    for name in _SKIPPED:
        listed = (base.quantization or {}).get(name)
        spared.update(str(one).rpartition(".")[2] for one in listed if one) if isinstance(listed, list) else None
    return isinstance(targets, list) and bool(targets) and all(str(one).rpartition(".")[2] in spared for one in targets)


def _newer(environment: Environment | Missing) -> bool:
    """Whether the installed PEFT is later than the one that the table was read from."""
    version = environment.version("peft") if isinstance(environment, Environment) else None
    return version is not None and knowledge.later(version, _READ_FROM)
