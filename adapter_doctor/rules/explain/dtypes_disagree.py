"""AD926: dtypes disagree."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD926", Severity.ERROR)
def dtypes_disagree(messages: Messages) -> Iterator[Hit]:
    """The adapter and the base compute in different number formats.

    ## Why it matters
    The layers cannot be multiplied with each other.

    ## Common causes
    Base in bfloat16 and adapter in float32 without autocast; a tensor that a runtime cannot read.

    ## Fix
    Load both in one dtype (`torch_dtype=`, `autocast_adapter_dtype`), or run under `torch.autocast`.
    """
    yield from messages.hits("AD926")
