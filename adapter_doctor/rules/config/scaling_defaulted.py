"""AD119: scaling defaulted."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG

_ALPHA = {"LOHA": ("alpha", 8), "LOKR": ("alpha", 8), "LORA": ("lora_alpha", 8)}


@rule("AD119", Severity.WARNING)
def scaling_defaulted(config: AdapterConfig) -> Iterator[Hit]:
    """The config does not say how strongly the update is applied.

    ## Why it matters
    PEFT takes its default of 8 without a word, whatever the adapter was trained with; the update is then too strong or
    too weak.

    ## Common causes
    A config written by hand or by a converter.

    ## Fix
    Add the alpha of the training; other trainers call it `network_alpha` or `scale` (alpha = scale x rank).
    """
    field, default = _ALPHA.get(config.peft_type, ("", 0))
    if field and field not in config.raw:
        yield Hit(f"`{field}` is absent, expected the value of the training: PEFT takes {default}", where=CONFIG)
