"""AD107: invalid value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from adapter_doctor import knowledge
from adapter_doctor.facts import AdapterConfig, Environment, LoadOutcome, Missing
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._demands import LAYERS, NAMES, REQUIRED, SHARED, TASK_TYPE, Demand, demands_of
from adapter_doctor.rules.config._values import CONFIG, installed_release, is_before, shown, was_taken

# Types that do not read these fields as the others do.
_OWN_TARGETS = ("ADAPTION_PROMPT", "XLORA")
_NO_LAYERS = ("SHADOW", "LN_TUNING", "XLORA", "ADAPTION_PROMPT")
_NEW_OFT = "0.14.0"


@rule("AD107", Severity.ERROR, explains=("AD211", "AD3", "AD5"))
def invalid_value(
    config: AdapterConfig, environment: Environment | Missing, outcome: LoadOutcome | Missing
) -> Iterator[Hit]:
    """A field of the config holds a value that PEFT refuses or cannot compute with.

    ## Why it matters
    PEFT checks no types: the value goes as it is into arithmetic and tensor sizes, which raise somewhere inside the
    load ("'<=' not supported between instances of 'str' and 'int'"), or, for NaN, make every output NaN.

    ## Common causes
    Edited by hand or written by a script: numbers in quotes, null where a number belongs, a misspelt choice; an
    initialisation that only training can run (`corda`).

    ## Fix
    Set the field to a value as described, the one that the adapter was trained with; do not guess `r` or `lora_alpha`.
    """
    if config.peft_type not in knowledge.peft_types():
        return
    taken = was_taken(outcome)
    for field, value, demand in _unmet(config, environment):
        if not (demand.raises and taken):
            absent = field not in config.raw
            yield Hit(
                f"`{field}` is {'absent' if absent else shown(value)}, expected {demand.expected}",
                where=CONFIG,
                fix=_cure(config, field, value),
            )


def _unmet(config: AdapterConfig, environment: Environment | Missing) -> Iterator[tuple[str, Any, Demand]]:
    """Each field with the first demand that its value does not meet."""
    kind = config.peft_type
    fields = knowledge.fields_of(kind)
    demands: dict[str, tuple[Demand, ...]] = {"task_type": (TASK_TYPE,)}
    if kind not in _OWN_TARGETS:
        demands["target_modules"] = (NAMES,)
    demands |= {field: (demand,) for field, demand in SHARED.items()}
    if kind not in _NO_LAYERS and not isinstance(config.get("target_modules"), str):
        demands["layers_to_transform"] = (LAYERS,)
    demands |= demands_of(kind)
    if kind == "OFT":
        demands |= _oft(config, environment)
    if kind == "LORA":
        demands |= _megatron(environment)
    for field, several in demands.items():
        if field in fields and (field in config.raw or field in REQUIRED.get(kind, ())):
            value = config.get(field)
            failed = next((demand for demand in several if not demand.met(value)), None)
            if failed is not None:
                yield field, value, failed


def _oft(config: AdapterConfig, environment: Environment | Missing) -> dict[str, tuple[Demand, ...]]:
    """OFT parses `peft_version`, and takes a config without `oft_block_size` for one of before 0.14."""
    installed = installed_release(environment)
    if installed is not None and is_before(installed, _NEW_OFT):
        return {"oft_block_size": ()}
    if "oft_block_size" not in config.raw:
        return {
            "oft_block_size": (Demand("an integer: without it PEFT takes the adapter for one of before 0.14", bool),)
        }
    if config.get("use_cayley_neumann"):
        return {"peft_version": (Demand("the number of a release", _is_release),)}
    return {}


def _is_release(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower().removeprefix("v")[:1].isdigit()


def _megatron(environment: Environment | Missing) -> dict[str, tuple[Demand, ...]]:
    if isinstance(environment, Environment) and environment.version("megatron-core"):
        return {}
    demand = Demand("null where Megatron is not installed: PEFT imports it", lambda value: not value)
    return {"megatron_config": (demand,)}


def _cure(config: AdapterConfig, field: str, value: Any) -> str | None:
    """A cure for this very value, where there is one to name."""
    if isinstance(value, str):
        text = value.strip()
        if field == "task_type":
            meant = text.upper().replace("-", "_").replace(" ", "_")
            return f"set `task_type` to {meant!r}" if meant in knowledge.task_types() else "set `task_type` to null"
        if text.removeprefix("-").replace(".", "", 1).isdecimal() and len(text) < 20:
            return f"write `{field}` without quotes: {text}"
        if field == "modules_to_save" and text:
            return f"write it as a list: {shown([text])}"
        if field in ("init_lora_weights", "init_weights") and text.lower() in ("true", "false"):
            return f"write `{field}` without quotes: {text.lower()}"
        if field == "init_lora_weights" and text.startswith("corda"):
            return (
                "set `init_lora_weights` to true and load onto the residual model that the CorDA training saved,"
                " or convert the adapter with `path_initial_model_for_weight_conversion`"
            )
    if field in ("rank_pattern", "alpha_pattern") and not value:
        return f"set `{field}` to {{}}"
    if field == "megatron_config":
        return "set `megatron_config` to null, or install megatron-core"
    if field == "oft_block_size" and field not in config.raw:
        return "load it with the PEFT release that wrote it (0.7 to 0.13) and merge it there"
    return None
