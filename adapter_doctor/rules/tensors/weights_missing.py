"""AD201: weights missing."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import WeightsFiles
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD201", Severity.ERROR, explains=("AD5",))
def weights_missing(weights: WeightsFiles) -> Iterator[Hit]:
    """There are no adapter weights.

    ## Why it matters
    PEFT finds the config, then fails: locally with a confusing `HFValidationError`, on the Hub with "Can't find weights".

    ## Common causes
    Only the config was uploaded; large files were left out by .gitignore; an interrupted copy.

    ## Fix
    Put `adapter_model.safetensors` beside the config; `model.save_pretrained(folder)` writes both.
    """
    if weights.chosen is None:
        names = [one.name for one in weights.others]
        yield Hit(
            "neither adapter_model.safetensors nor adapter_model.bin is there"
            + (f", only {len(names)} other weight files" if names else ""),
            examples=some(names),
        )
