"""AD305: tensors not targeted."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, Comparison
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD305", Severity.ERROR, explains=("AD502", "AD803", "AD804", "AD805", "AD815"), repairable=True)
def tensors_not_targeted(comparison: Comparison, tensors: AdapterTensors) -> Iterator[Hit]:
    """The config does not call for some of the tensors in the file.

    ## Why it matters
    PEFT builds the adapter from the config and drops what is left over, without a word. The base has these modules; they
    were trained; they are not applied.

    ## Common causes
    `target_modules` narrower than in training, edited or lost (null means a default: q_proj and v_proj for Llama);
    `use_dora`, `lora_bias` or `modules_to_save` switched off afterwards; `layers_to_transform`, `exclude_modules`.

    ## Fix
    Restore the setting of the training run in adapter_config.json, so that it covers these modules and tensors.
    """
    keys = comparison.strays.get("switched-off", ()) + comparison.strays.get("saved-elsewhere", ())
    if keys:
        leaves = sorted({key.split(".lora_")[0].rpartition(".")[2] for key in keys})
        yield Hit(
            f"{len(keys)} of {len(tensors)} tensors are not called for by the config ({', '.join(leaves[:5])})",
            where="adapter_config.json",
            count=len(keys),
            examples=some(keys),
        )
