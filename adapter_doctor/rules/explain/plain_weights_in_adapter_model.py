"""AD904: plain weights in adapter model."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import StateDictMismatch
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD904", Severity.ERROR, explains=("AD901", "AD910", "AD906", "AD907", "AD908", "AD909", "AD911", "AD912"))
def plain_weights_in_adapter_model(mismatch: StateDictMismatch) -> Iterator[Hit]:
    """A base model's weights were loaded into a model that already has its adapter layers.

    ## Why it matters
    PEFT renames what it wraps (`base_model.model.` in front, `base_layer` inside), so the base's own names are not
    there any more, and the adapter's tensors are not in the file.

    ## Common causes
    `get_peft_model` first and `load_state_dict` of the base's checkpoint afterwards.

    ## Fix
    Load the base's weights before the adapter is put on: base, then `PeftModel.from_pretrained(base, folder)`.
    """
    keys = mismatch.reasons.get("no-adapter", ())
    if keys:
        yield Hit(
            f"the model has {len(keys)} adapter tensors of which the state dict has none",
            count=len(keys),
            examples=some(keys),
        )
