"""AD217: adapter name in keys."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, Comparison
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.adapter_keys import adapter_name, parse
from adapter_doctor.rules import rule


@rule("AD217", Severity.ERROR, explains=("AD212", "AD30", "AD311", "AD5"), repairable=True)
def adapter_name_in_keys(tensors: AdapterTensors, comparison: Comparison) -> Iterator[Hit]:
    """The adapter's name stands inside the tensor names, and PEFT drops them.

    ## Why it matters
    PEFT puts the name in itself when it loads. Names that already carry another one find no place.

    ## Common causes
    `torch.save(model.state_dict())` or a trainer's own save, instead of `save_pretrained`, which takes the name out.

    ## Fix
    Rename the tensors without the adapter's name (`lora_A.NAME.weight` to `lora_A.weight`).
    """
    keys = comparison.strays.get("adapter-name", ())
    if keys:
        names = sorted({name for key in keys if (one := parse(key)) and (name := adapter_name(one))})
        yield Hit(
            f"{len(keys)} of {len(tensors)} tensor names carry the adapter name {', '.join(map(repr, names[:3]))}",
            where=tensors.file,
            count=len(keys),
            examples=some(keys),
        )
