"""AD219: prefix missing."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, Comparison
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.adapter_keys import PREFIX
from adapter_doctor.rules import rule


@rule(
    "AD219",
    Severity.ERROR,
    explains=("AD212", "AD303", "AD304", "AD305", "AD307", "AD311", "AD317", "AD5"),
    repairable=True,
)
def prefix_missing(tensors: AdapterTensors, comparison: Comparison) -> Iterator[Hit]:
    """The tensor names lack PEFT's prefix `base_model.model.`.

    ## Why it matters
    `PeftModel` drops these tensors without a word (transformers' own `load_adapter` takes them).

    ## Common causes
    Saved by transformers' native integration, by diffusers, or by an exporter of its own.

    ## Fix
    Put `base_model.model.` in front of every tensor name.
    """
    keys = comparison.strays.get("no-prefix", ())
    if keys:
        yield Hit(
            f"{len(keys)} of {len(tensors)} tensor names do not begin with `{PREFIX}`",
            where=tensors.file,
            count=len(keys),
            examples=some(keys),
        )
