"""AD932: harmless message."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD932", Severity.NOTE)
def harmless_message(messages: Messages) -> Iterator[Hit]:
    """The message is no sign of a defect.

    ## Why it matters
    It lists what a healthy load leaves out, and sends people after a fault that is not there.

    ## Common causes
    Printing the result of `load_state_dict` or `set_peft_model_state_dict`, which names all of the base's weights.

    ## Fix
    Nothing; `adapter-doctor check BASE ADAPTER` proves what landed.
    """
    yield from messages.hits("AD932")
