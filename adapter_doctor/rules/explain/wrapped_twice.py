"""AD921: wrapped twice."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD921", Severity.ERROR, explains=("AD218", "AD301"))
def wrapped_twice(messages: Messages) -> Iterator[Hit]:
    """The model was wrapped in adapter layers a second time.

    ## Why it matters
    The second wrapping starts from zero and hides the first: training begins anew, and what is saved carries
    `base_model.model.` twice.

    ## Common causes
    `get_peft_model` on what `PeftModel.from_pretrained` or a trainer had wrapped already; a notebook cell that ran
    twice.

    ## Fix
    Start from a base model that was loaded afresh, or from `model.unload()`; to continue, load once with
    `PeftModel.from_pretrained(base, folder, is_trainable=True)`.
    """
    yield from messages.hits("AD921")
