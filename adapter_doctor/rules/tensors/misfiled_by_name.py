"""AD225: misfiled by name."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, Comparison
from adapter_doctor.findings import Hit, Severity, counted, some
from adapter_doctor.rules import rule


@rule("AD225", Severity.ERROR, explains=("AD304", "AD503"))
def misfiled_by_name(comparison: Comparison, tensors: AdapterTensors) -> Iterator[Hit]:
    """Exactly one layer has no tensors in the file.

    ## Why it matters
    PEFT leaves it at its initial value. That just one is missing is the mark of an adapter named like a part of a path
    ("0", "q_proj"): saving another adapter then drops every name that contains it.

    ## Common causes
    A second adapter called "0", "1", "mlp" or "q_proj" was on the model when it was saved.

    ## Fix
    If another adapter on the model was called like a part of a path, give it another name and save again. Otherwise
    this layer was not trained or was lost: name the layers that were in `layers_to_transform`.
    """
    gone = comparison.vacant.get("gap", ())
    if gone:
        yield Hit(f"{counted(len(gone), 'place has', 'places have')} no tensor, all of one layer", where=tensors.file,
                  count=len(gone), examples=some(gone))  # fmt: skip
