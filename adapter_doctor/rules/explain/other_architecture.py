"""AD911: other architecture."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import StateDictMismatch
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD911", Severity.ERROR, explains=("AD912",))
def other_architecture(mismatch: StateDictMismatch) -> Iterator[Hit]:
    """The state dict is of a model with other parts.

    ## Why it matters
    Hardly a name is shared and no single rename maps one side to the other. `strict=False` would load next to nothing.

    ## Common causes
    The checkpoint of another model, or of another library's implementation of the same one.

    ## Fix
    Build the model class that was saved, or convert the checkpoint with the converter of the library.
    """
    keys = set(mismatch.reasons.get("architecture", ()))
    if keys:
        theirs = [key for key in mismatch.unexpected if key in keys]
        ours = [key for key in mismatch.missing if key in keys]
        yield Hit(
            f"{len(theirs)} keys of the state dict are unknown to {mismatch.class_name or 'the model'}, which lacks"
            f" {len(ours)} of its own: {theirs[0]} there, {ours[0]} here",
            count=len(keys),
            examples=some(theirs),
        )
