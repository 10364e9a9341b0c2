"""AD908: state dict layers."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import StateDictMismatch
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD908", Severity.ERROR)
def state_dict_layers(mismatch: StateDictMismatch) -> Iterator[Hit]:
    """The model has another number of layers than the checkpoint.

    ## Why it matters
    With `strict=False` the layers that are not in the file would be random, or the file's last ones dropped.

    ## Common causes
    Another size of the model, a pruned or deepened variant, a config that is not the checkpoint's.

    ## Fix
    Build the model from the config that was saved with the checkpoint.
    """
    keys = mismatch.reasons.get("layers", ())
    if keys and mismatch.layers is not None:
        there, wanted = mismatch.layers
        yield Hit(
            f"{there} layers in the state dict, {wanted} in the model; all else that is listed fits",
            count=len(keys),
            examples=some(keys),
        )
