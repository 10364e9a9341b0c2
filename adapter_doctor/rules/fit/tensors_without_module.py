"""AD303: tensors without module."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, Comparison
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD303", Severity.ERROR, explains=("AD305", "AD502", "AD803", "AD804", "AD805", "AD815"))
def tensors_without_module(comparison: Comparison, tensors: AdapterTensors) -> Iterator[Hit]:
    """The file has tensors for modules that the base does not have.

    ## Why it matters
    PEFT drops them without a word: that part of the adapter is simply gone.

    ## Common causes
    Another model of the same family, another version of the model's code, a file assembled from several adapters.

    ## Fix
    Use the base that the adapter was trained on.
    """
    keys = comparison.strays.get("absent", ()) + comparison.strays.get("foreign", ())
    if keys:
        yield Hit(f"{len(keys)} of {len(tensors)} tensors belong to modules that the base does not have",
                  where=tensors.file, count=len(keys), examples=some(keys))  # fmt: skip
