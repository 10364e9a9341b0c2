"""AD222: two weight files."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import WeightsFiles
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD222", Severity.WARNING)
def two_weight_files(weights: WeightsFiles) -> Iterator[Hit]:
    """Two weight files lie side by side and differ.

    ## Why it matters
    PEFT always takes the safetensors file; whoever thinks the other one counts gets other weights.

    ## Common causes
    A later save in the other format into the same folder.

    ## Fix
    Remove the one that is out of date.
    """
    for other in weights.others:
        if other.name == "adapter_model.bin" and other.state == "differs" and weights.chosen is not None:
            yield Hit(f"{weights.chosen.name} is taken, and {other.name} beside it {other.detail}", where=other.name)
