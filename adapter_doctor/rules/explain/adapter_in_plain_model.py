"""AD903: adapter in plain model."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import StateDictMismatch
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD903", Severity.ERROR, explains=("AD901", "AD906", "AD907", "AD908", "AD909", "AD911", "AD912"))
def adapter_in_plain_model(mismatch: StateDictMismatch) -> Iterator[Hit]:
    """An adapter's tensors were loaded into the model without its adapter layers.

    ## Why it matters
    The model has no place for them. `strict=False` would drop every one and leave the base model as it is.

    ## Common causes
    `model.load_state_dict(torch.load('adapter_model.bin'))` on the base model.

    ## Fix
    Load the adapter with `PeftModel.from_pretrained(base, folder)`, which builds its layers first.
    """
    keys = mismatch.reasons.get("adapter", ())
    if keys:
        yield Hit(
            f"{len(keys)} of the state dict's keys are an adapter's, and {mismatch.class_name or 'the model'} has no adapter"
            " layers",
            count=len(keys),
            examples=some(keys),
        )
