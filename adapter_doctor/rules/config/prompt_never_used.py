"""AD117: prompt never used."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG

# Asked of PEFT 0.21.2: the output is the base's. CPT raises instead (see conflicting-fields).
_TYPES = ("CARTRIDGE", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")


@rule("AD117", Severity.ERROR, explains=("AD506",))
def prompt_never_used(config: AdapterConfig) -> Iterator[Hit]:
    """The learnt prompt is never put in front of the input, as the config names no task.

    ## Why it matters
    Only PEFT's classes for a task prepend the prompt. Without `task_type` the plain `PeftModel` is used: it loads without
    a word, and its output is the base's.

    ## Common causes
    `task_type` was left out in training, or lost when the config was written anew.

    ## Fix
    Set `task_type` in adapter_config.json to the task of the training, such as "CAUSAL_LM".
    """
    if config.peft_type in _TYPES and config.get("task_type") is None:
        said = "null" if "task_type" in config.raw else "absent"
        yield Hit(
            f"`task_type` is {said} in a config of {config.peft_type}, expected a task: without one PEFT never uses the"
            " prompt",
            where=CONFIG,
        )
