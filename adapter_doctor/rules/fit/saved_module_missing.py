"""AD317: saved module missing."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, Comparison
from adapter_doctor.findings import Hit, Severity, counted, some
from adapter_doctor.rules import rule


@rule(
    "AD317", Severity.ERROR, explains=("AD304", "AD310", "AD501", "AD502", "AD503", "AD803", "AD804", "AD805", "AD815")
)
def saved_module_missing(comparison: Comparison, config: AdapterConfig) -> Iterator[Hit]:
    """Modules that the config saves whole have no tensors in the file.

    ## Why it matters
    PEFT raises a bare `KeyError` with the tensor's name; nothing is loaded.

    ## Common causes
    `modules_to_save` was added to the config by hand, the tensors were filtered out, or the task adds a head
    (`classifier`, `score`, `qa_outputs`) that was never trained.

    ## Fix
    Remove the modules from `modules_to_save` if they were never trained; otherwise save the adapter again.
    """
    keys = comparison.vacant.get("saved", ())
    if keys:
        yield Hit(f"{counted(len(keys), 'tensor of a saved module is', 'tensors of saved modules are')} missing (`modules_to_save` {config.get('modules_to_save')!r})",
                  where="adapter_config.json", count=len(keys), examples=some(keys))  # fmt: skip
