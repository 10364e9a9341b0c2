"""AD934: wrong call."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD934", Severity.ERROR)
def wrong_call(messages: Messages) -> Iterator[Hit]:
    """A library's function was called in a way that it does not have.

    ## Why it matters
    The call fails before adapter and base are looked at.

    ## Common causes
    Code written for another release, a task's method on a model without that task's head.

    ## Fix
    Call it as the message says.
    """
    yield from messages.hits("AD934")
