"""AD906: state dict head."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import StateDictMismatch
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD906", Severity.ERROR)
def state_dict_head(mismatch: StateDictMismatch) -> Iterator[Hit]:
    """Only the head on top of the model differs.

    ## Why it matters
    The body loads; the head would be random with `strict=False`, and another number of labels raises in any case.

    ## Common causes
    A checkpoint of the bare model or of another task; `num_labels` not set as in training.

    ## Fix
    Build the model with the task and `num_labels` of the checkpoint; to train a new head on purpose, load the body
    alone and say so.
    """
    keys = mismatch.reasons.get("head", ())
    if keys:
        shapes = [mismatch.clash[key] for key in keys if key in mismatch.clash]
        rows = (
            f": {shapes[0].in_file[0]} rows in the state dict, {shapes[0].in_model[0]} in the model" if shapes else ""
        )
        only = "only " if len(mismatch.reasons) == 1 else ""
        yield Hit(
            f"{only}{len(keys)} keys of the head differ{rows}",
            count=len(keys),
            examples=some(keys),
            fix=f"build the model with `num_labels={shapes[0].in_file[0]}`, as in training" if shapes else None,
        )
