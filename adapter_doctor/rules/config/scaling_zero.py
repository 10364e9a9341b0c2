"""AD118: scaling zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adapter_doctor.facts import AdapterConfig, Fit, Missing
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.patterns import BadPattern, pattern_key
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG, is_number, shown

# The field that each type multiplies its update by; with 0 in it PEFT 0.21.2 gives the base's output.
_FACTOR = {
    "FOURIERFT": "scaling", "GRALORA": "alpha", "LILY": "scaling", "LOHA": "alpha", "LOKR": "alpha",
    "LORA": "lora_alpha", "PEANUT": "scaling", "RANDLORA": "randlora_alpha", "SHADOW": "shadow_alpha",
    "WAVEFT": "scaling",
}  # fmt: skip
_BY_MODULE = ("LORA", "LOHA", "LOKR")


@rule("AD118", Severity.ERROR, explains=("AD506",))
def scaling_zero(config: AdapterConfig, fit: Fit | Missing) -> Iterator[Hit]:
    """The adapter's update is multiplied by zero.

    ## Why it matters
    The adapter loads without a word and changes nothing.

    ## Common causes
    `lora_alpha` was set to 0 to switch the adapter off, or computed by a script that rounded it down.

    ## Fix
    Set it to the value that the training used; many take the rank, or twice the rank, but only the training knows.
    """
    field = _FACTOR.get(config.peft_type)
    if field is None:
        return
    pattern = config.get("alpha_pattern") if config.peft_type in _BY_MODULE else None
    overrides = pattern if isinstance(pattern, Mapping) else {}
    zero = field in config.raw and _is_zero(config.raw[field])
    if not zero and not any(map(_is_zero, overrides.values())):
        return
    targeted = fit.targeted if isinstance(fit, Fit) else ()
    if targeted and overrides:
        try:
            silent = [name for name in targeted if _alpha_is_zero(name, overrides, zero)]
        except BadPattern:
            return
    else:
        nothing = zero and not any(is_number(one) and not _is_zero(one) for one in overrides.values())
        silent = list(targeted) if nothing else []
        if nothing and not targeted:
            yield Hit(_said(config, field), where=CONFIG)
    if silent and (zero or len(silent) == len(targeted)):
        scope = "" if len(silent) == len(targeted) else f" for {len(silent)} of {len(targeted)} modules"
        yield Hit(_said(config, field) + scope, where=CONFIG, count=len(silent), examples=some(silent))


def _said(config: AdapterConfig, field: str) -> str:
    part = "the low-rank part of every update" if config.get("use_dora") else "every update"
    value = config.get(field)
    named = f"`{field}` is {shown(value)}" if _is_zero(value) else "`alpha_pattern` is 0"
    return f"{named}, expected another number: {part} is multiplied by 0"


def _alpha_is_zero(module: str, overrides: Mapping[str, Any], default: bool) -> bool:
    key = pattern_key(overrides, module)
    return default if key is None else _is_zero(overrides[key])


def _is_zero(value: Any) -> bool:
    return is_number(value) and value == 0
