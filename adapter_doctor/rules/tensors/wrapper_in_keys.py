"""AD216: wrapper in keys."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, Comparison, Missing
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.adapter_keys import WRAPPERS, parse
from adapter_doctor.rules import rule


@rule("AD216", Severity.ERROR, explains=("AD212", "AD30", "AD311", "AD317", "AD5"), repairable=True)
def wrapper_in_keys(tensors: AdapterTensors, comparison: Comparison | Missing) -> Iterator[Hit]:
    """A training wrapper's name stands inside the tensor names.

    ## Why it matters
    PEFT looks for the plain names, drops these tensors without a word, and the base model answers.

    ## Common causes
    The adapter was saved from a model wrapped by torch.compile (`_orig_mod`), FSDP, DistributedDataParallel (`module`) or
    TRL's value head, instead of from the model inside.

    ## Fix
    Rename the tensors without the wrapper's segment; next time save from the unwrapped model.
    """
    if isinstance(comparison, Comparison):
        keys = comparison.strays.get("wrapper", ())
    else:
        sure = set(WRAPPERS) - {"module", "pretrained_model"}
        keys = tuple(name for name in tensors if parse(name) is not None and sure & set(name.split(".")))
    if keys:
        inside = sorted({part for key in keys for part in key.split(".") if part in WRAPPERS})
        makers = ", ".join(f"`{part}` ({WRAPPERS[part]})" for part in inside)
        yield Hit(
            f"{len(keys)} of {len(tensors)} tensor names carry {makers}",
            where=tensors.file,
            count=len(keys),
            examples=some(keys),
            fix=f"rename the tensors without {', '.join(f'`{part}.`' for part in inside)}",
        )
