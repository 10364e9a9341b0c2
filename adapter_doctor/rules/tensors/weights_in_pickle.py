"""AD205: weights in pickle."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import WeightsFiles
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD205", Severity.WARNING, repairable=True)
def weights_in_pickle(weights: WeightsFiles) -> Iterator[Hit]:
    """The weights are a pickle file.

    ## Why it matters
    A pickle is code when it is loaded carelessly, and several servers take safetensors only.

    ## Common causes
    PEFT before 0.7 wrote `adapter_model.bin` by default; `safe_serialization=False`.

    ## Fix
    Load the adapter once and save it again with `model.save_pretrained(folder)`, which writes safetensors.
    """
    if weights.chosen is not None and weights.chosen.name.endswith(".bin") and weights.chosen.ok:
        yield Hit("the tensors are in adapter_model.bin, expected adapter_model.safetensors", where=weights.chosen.name)
