"""AD910: state dict renamed."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import StateDictMismatch
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule
from adapter_doctor.rules.explain._renaming import rename_code


@rule("AD910", Severity.ERROR, explains=("AD911", "AD912"))
def state_dict_renamed(mismatch: StateDictMismatch) -> Iterator[Hit]:
    """Parts of the model have other names in the state dict.

    ## Why it matters
    What is missing and what is unexpected are the same kinds of tensors under two names. With `strict=False` the
    model's would stay random and the file's be dropped.

    ## Common causes
    An attribute of the class was renamed between saving and loading; another version of the model's code.

    ## Fix
    Rename the keys if they are the same layer, which their shapes must show; otherwise build the class that was saved.
    """
    keys = mismatch.reasons.get("renamed", ())
    if keys and mismatch.rename is not None:
        rename = mismatch.rename
        yield Hit(
            f"{len(keys)} of {len(mismatch.unexpected)} unexpected keys become missing ones by one rename: {rename}",
            count=len(keys),
            examples=some(keys),
            fix="if both are the same layer (the message does not tell their shapes), load it with"
            f" {rename_code(rename)}; if not, build the model that was saved",
        )
