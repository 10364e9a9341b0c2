"""AD223: adapter name tolerated."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.adapter_keys import adapter_name, parse
from adapter_doctor.rules import rule


@rule("AD223", Severity.WARNING, repairable=True)
def adapter_name_tolerated(tensors: AdapterTensors) -> Iterator[Hit]:
    """The adapter's name `default` stands inside the tensor names.

    ## Why it matters
    PEFT takes them as long as the adapter is loaded under that name; under any other name, and in vLLM, llama.cpp and
    others, they are dropped or refused.

    ## Common causes
    `torch.save(model.state_dict())` or a trainer's own save, instead of `save_pretrained`.

    ## Fix
    Rename the tensors without `.default`, or load the adapter once and save it with `save_pretrained`.
    """
    keys = [name for name in tensors if (one := parse(name)) is not None and adapter_name(one) == "default"]
    if keys:
        yield Hit(f"{len(keys)} of {len(tensors)} tensor names carry `.default`", where=tensors.file, count=len(keys),
                  examples=some(keys))  # fmt: skip
