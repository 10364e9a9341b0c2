"""AD008: adapter in subfolder."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterFolder
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD008", Severity.ERROR, explains=("AD010", "AD101", "AD201"))
def adapter_in_subfolder(adapter: AdapterFolder) -> Iterator[Hit]:
    """The adapter lies in a subfolder.

    ## Why it matters
    PEFT looks only into the folder it is given, unless `subfolder` is passed.

    ## Common causes
    An adapter with a name of its own is saved into a folder of that name; a Trainer's output folder holds
    `checkpoint-N` folders.

    ## Fix
    Give the subfolder itself, or pass `subfolder=` to `PeftModel.from_pretrained`.
    """
    nested = [name for name in adapter.nested() if name]
    top = {"adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"} & set(adapter.files)
    if nested and not top:
        last = max(nested, key=lambda name: (int("".join(filter(str.isdigit, name)) or 0), name))
        yield Hit(
            f"no adapter in {adapter.reference!r} itself, but in {len(nested)} of its subfolders",
            where=adapter.reference,
            count=len(nested),
            examples=some(nested),
            fix=f"give {adapter.reference.rstrip('/')}/{last}",
        )
