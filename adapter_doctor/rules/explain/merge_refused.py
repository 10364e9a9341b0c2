"""AD923: merge refused."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD923", Severity.ERROR)
def merge_refused(messages: Messages) -> Iterator[Hit]:
    """The adapter cannot be merged into this base as it is loaded.

    ## Why it matters
    A quantised layer cannot take the update without rounding, and some kernels cannot take it at all; NaN in the merge
    means NaN or overflow in the adapter.

    ## Common causes
    `merge_and_unload` on a GPTQ, AWQ or bitsandbytes base, a merge in half precision.

    ## Fix
    Load the base unquantised in bfloat16 or float32, put the adapter on, merge, and quantise the result anew.
    """
    yield from messages.hits("AD923")
