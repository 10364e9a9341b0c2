"""AD924: merge left overs."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD924", Severity.ERROR)
def merge_left_overs(messages: Messages) -> Iterator[Hit]:
    """The model is called merged and still holds an adapter's or a quantiser's tensors.

    ## Why it matters
    The converter or engine finds names it does not know; if it let them pass, the adapter would not be in the weights.

    ## Common causes
    `save_pretrained` of the PeftModel instead of the merged model, a merge into a quantised base, LoRA on `lm_head`.

    ## Fix
    Merge again: `model = model.merge_and_unload()` on an unquantised base, then `model.save_pretrained(folder)`.
    """
    yield from messages.hits("AD924")
