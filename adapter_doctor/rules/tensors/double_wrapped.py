"""AD218: double wrapped."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, Comparison, Missing
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.adapter_keys import PREFIX
from adapter_doctor.rules import rule


@rule("AD218", Severity.ERROR, explains=("AD212", "AD30", "AD311", "AD317", "AD5"), repairable=True)
def double_wrapped(tensors: AdapterTensors, comparison: Comparison | Missing) -> Iterator[Hit]:
    """`base_model.model.` stands twice in the tensor names.

    ## Why it matters
    PEFT drops these tensors without a word, and the base model answers.

    ## Common causes
    `get_peft_model` on a model that was a PeftModel already, or `PeftModel.from_pretrained` on one.

    ## Fix
    Rename the tensors with one `base_model.model.`; next time start from the base model (`model.unload()`).
    """
    if isinstance(comparison, Comparison):
        keys = comparison.strays.get("double-prefix", ())
    else:
        keys = tuple(name for name in tensors if name.startswith(PREFIX + PREFIX))
    if keys:
        yield Hit(
            f"{len(keys)} of {len(tensors)} tensor names begin with `{PREFIX}{PREFIX}`",
            where=tensors.file,
            count=len(keys),
            examples=some(keys),
        )
