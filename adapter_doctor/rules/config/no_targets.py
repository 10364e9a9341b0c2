"""AD108: no targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adapter_doctor import knowledge
from adapter_doctor.facts import AdapterConfig, BaseConfig, LoadOutcome, Missing
from adapter_doctor.findings import Hit, Severity, Undecided
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG, shown, was_taken

# ADAPTION_PROMPT goes by layers, XLORA by the adapters it mixes; these two find their targets in the model itself.
_WITHOUT = ("ADAPTION_PROMPT", "XLORA")
_BY_MODEL = ("TRAINABLE_TOKENS", "SHADOW")


@rule("AD108", Severity.ERROR, explains=("AD301", "AD501"), repairable=True)
def no_targets(config: AdapterConfig, base: BaseConfig | Missing, outcome: LoadOutcome | Missing) -> Iterator[Hit]:
    """The config names no module to adapt, and PEFT has no default for this kind of base.

    ## Why it matters
    PEFT raises "Please specify `target_modules`" or "No `target_modules` passed".

    ## Common causes
    The field was left out in training on a model type that PEFT had defaults for, or was emptied by hand.

    ## Fix
    Set `target_modules` to the names in the tensors: of `…layers.0.self_attn.q_proj.lora_A.weight` it is `q_proj`.
    """
    kind = config.peft_type
    if kind not in knowledge.peft_types() or config.is_prompt_learning or kind in _WITHOUT or was_taken(outcome):
        return
    if kind == "LORA" and config.get("target_parameters"):
        return
    targets = config.get("target_modules")
    if targets is None and kind not in _BY_MODEL:
        model_type = _model_type(base, "target_modules")
        if knowledge.default_targets(kind, model_type) is None:
            said = "null" if "target_modules" in config.raw else "absent"
            yield Hit(
                f"`target_modules` is {said}, and PEFT has no default of {kind} for the model type {model_type!r}",
                where=CONFIG,
            )
            return
    elif targets is not None and not targets and isinstance(targets, (str, list, Mapping)):
        yield Hit(f"`target_modules` is {shown(targets)}, expected at least one module", where=CONFIG)
        return
    if kind == "IA3" and config.get("feedforward_modules") is None:
        model_type = _model_type(base, "feedforward_modules")
        if knowledge.default_feedforward(model_type) is None:
            yield Hit(
                "`feedforward_modules` names nothing, and PEFT has no default of IA3 for the model type"
                f" {model_type!r}",
                where=CONFIG,
                fix="set `feedforward_modules` to those of `target_modules` whose tensors have the shape [1, in], or []",
            )


def _model_type(base: BaseConfig | Missing, field: str) -> str:
    if isinstance(base, Missing):
        raise Undecided(base.why)
    if not base.model_type:
        raise Undecided(f"`{field}` is left to PEFT's default for the model type, and the base's config names none")
    return base.model_type
