"""AD909: state dict widths."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import StateDictMismatch
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD909", Severity.ERROR, explains=("AD306", "AD908"))
def state_dict_widths(mismatch: StateDictMismatch) -> Iterator[Hit]:
    """Layers of the checkpoint have other widths than the model's.

    ## Why it matters
    They are another model's weights. torch refuses them even with `strict=False`.

    ## Common causes
    Another size of the model, or a config that was edited or not saved with the checkpoint.

    ## Fix
    Build the model from the config that was saved with the checkpoint.
    """
    keys = mismatch.reasons.get("width", ())
    if keys:
        first = mismatch.clash[keys[0]]
        yield Hit(
            f"{len(keys)} tensors have other shapes: {list(first.in_file)} in the state dict, {list(first.in_model)} in the"
            " model",
            count=len(keys),
            examples=some(keys),
        )
