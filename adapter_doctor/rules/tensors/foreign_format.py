"""AD208: foreign format."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, Missing, WeightsFiles
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.foreign import format_of_files, format_of_keys
from adapter_doctor.rules import rule


@rule("AD208", Severity.ERROR, explains=("AD101", "AD103", "AD201", "AD210", "AD212", "AD3", "AD5"), repairable=True)
def foreign_format(weights: WeightsFiles, tensors: AdapterTensors | Missing) -> Iterator[Hit]:
    """The adapter is in the format of another library.

    ## Why it matters
    PEFT finds no file, or a file of which it knows no tensor.

    ## Common causes
    Trained with kohya, diffusers, MLX, torchtune or mistral-finetune, or converted for llama.cpp.

    ## Fix
    Convert it with `adapter-doctor fix`, or as the message says; or load it with its own library.
    """
    found = format_of_files([one.name for one in weights.others]) if weights.chosen is None else None
    if found is None and isinstance(tensors, AdapterTensors):
        found = format_of_keys(tensors)
    if found is not None:
        yield Hit(
            f"{found.evidence}: this is {found.name}'s format, not PEFT's",
            examples=found.examples,
            fix=found.cure,
            repairable=None if found.name != "llama.cpp" else False,
        )
