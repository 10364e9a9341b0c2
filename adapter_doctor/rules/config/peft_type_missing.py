"""AD103: peft type missing."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG, shown


@rule("AD103", Severity.ERROR, explains=("AD5",), repairable=True)
def peft_type_missing(config: AdapterConfig) -> Iterator[Hit]:
    """The config names no PEFT type.

    ## Why it matters
    `peft_type` decides which class reads the config; PEFT raises a bare `KeyError` without it.

    ## Common causes
    A config written by hand or by another trainer (MLX, AdapterHub), or the base model's config under this name.

    ## Fix
    Add `"peft_type": "LORA"`, or the method that the adapter was trained with; convert it if another library wrote it.
    """
    if config.peft_type:
        return
    if "peft_type" in config.raw:
        said = f"`peft_type` is {shown(config.raw['peft_type'])}, expected the name of a method such as 'LORA'"
    else:
        said = f"`peft_type` is not among the {len(config.raw)} fields, expected the name of a method such as 'LORA'"
    yield Hit(said, where=CONFIG, examples=some(sorted(map(str, config.raw))))
