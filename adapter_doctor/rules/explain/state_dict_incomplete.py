"""AD912: state dict incomplete."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import StateDictMismatch
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD912", Severity.ERROR)
def state_dict_incomplete(mismatch: StateDictMismatch) -> Iterator[Hit]:
    """The state dict and the model differ in single tensors.

    ## Why it matters
    Each missing one stays at its initial value and each unexpected one is lost if the load is not strict.

    ## Common causes
    A checkpoint that holds only what was trained, another version of the model's code, buffers that one version saves
    and the other computes.

    ## Fix
    Build the model with the code and config that saved the checkpoint; take missing frozen weights from the base model.
    """
    for reason, told in (
        ("missing", "tensors of the model are not in the state dict"),
        ("unexpected", "tensors of the state dict are not in the model"),
        ("buffers", "listed keys are buffers that the model computes itself"),
    ):
        keys = mismatch.reasons.get(reason, ())
        if keys:
            cut = ", and the list breaks off" if mismatch.cut and reason != "buffers" else ""
            yield Hit(
                f"{len(keys)} {told}{cut}",
                count=len(keys),
                examples=some(keys),
                fix="nothing is lost with these: remove them from the state dict, or load with the code that saved them"
                if reason == "buffers"
                else None,
            )
