"""AD905: frozen weights not saved."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import StateDictMismatch
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD905", Severity.ERROR, explains=("AD906", "AD907", "AD908", "AD909", "AD911", "AD912"))
def frozen_weights_not_saved(mismatch: StateDictMismatch) -> Iterator[Hit]:
    """The checkpoint holds what was trained, and a strict load asks for the frozen base as well.

    ## Why it matters
    The base's weights were never in the file. They must come from the base model, not from the checkpoint, and a load
    that is not strict would not say so if the adapter's were missing too.

    ## Common causes
    DeepSpeed and Lightning checkpoints of a PeftModel, and `load_state_dict` of `adapter_model` on the PeftModel.

    ## Fix
    Load the base with its own weights, then the checkpoint's adapter with `PeftModel.from_pretrained(base, checkpoint,
    is_trainable=True)`; for a DeepSpeed or Lightning file take the tensors with `set_peft_model_state_dict` and compare
    what landed.
    """
    keys = mismatch.reasons.get("frozen", ())
    if keys:
        yield Hit(
            f"{len(keys)} of the missing keys are the frozen base's, and no adapter tensor is missing",
            count=len(keys),
            examples=some(keys),
        )
