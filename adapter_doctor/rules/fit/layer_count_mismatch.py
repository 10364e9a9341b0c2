"""AD307: layer count mismatch."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, Comparison
from adapter_doctor.findings import Hit, Severity, counted, some
from adapter_doctor.rules import rule


@rule(
    "AD307", Severity.ERROR, explains=("AD225", "AD303", "AD304", "AD502", "AD503", "AD803", "AD804", "AD805", "AD815")
)
def layer_count_mismatch(comparison: Comparison, tensors: AdapterTensors) -> Iterator[Hit]:
    """The adapter was trained for another number of layers than the base has.

    ## Why it matters
    With fewer layers in the base, PEFT drops the surplus tensors without a word; with more, the further layers stay at
    their initial values.

    ## Common causes
    Another size of the model, a pruned or deepened variant, a lost `layers_to_transform` or `layer_replication`.

    ## Fix
    Use the base that the adapter was trained on.
    """
    layers = next((one for one in comparison.dimensions if one.name == "layers"), None)
    counts = (
        f": {counted(layers.in_adapter, 'layer', 'layers')} in the adapter, {layers.in_base} in the base"
        if layers
        else ""
    )
    over, under = comparison.strays.get("layer", ()), comparison.vacant.get("deeper", ())
    if over:
        yield Hit(f"{len(over)} of {len(tensors)} tensors are for layers that the base does not have{counts}",
                  where=tensors.file, count=len(over), examples=some(over))  # fmt: skip
    if under:
        yield Hit(f"{counted(len(under), 'place lies', 'places lie')} in layers that the adapter has no tensors for{counts}", count=len(under),
                  examples=some(under))  # fmt: skip
