"""AD210: no adapter tensors."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.rules import rule


@rule("AD210", Severity.ERROR, explains=("AD212", "AD216", "AD218", "AD219", "AD220", "AD3", "AD5"))
def no_adapter_tensors(tensors: AdapterTensors) -> Iterator[Hit]:
    """The weight file holds no adapter tensor.

    ## Why it matters
    PEFT loads it without an error, and the base model answers.

    ## Common causes
    The state dict of the whole (merged) model was saved under the adapter's name; a patched `state_dict` that saved
    nothing.

    ## Fix
    Save with `model.save_pretrained(folder)` on the PeftModel, not `torch.save(model.state_dict())` on what is inside.
    """
    if len(tensors) == 0:
        yield Hit("the file holds 0 tensors", where=tensors.file)
        return
    if any(parse(name) is not None for name in tensors):
        return
    yield Hit(
        f"none of the {len(tensors)} tensors belongs to an adapter, expected names with lora_A and lora_B or the like",
        where=tensors.file,
        count=len(tensors),
        examples=some(tensors),
    )
