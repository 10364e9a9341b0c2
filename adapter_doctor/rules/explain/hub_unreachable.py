"""AD933: hub unreachable."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD933", Severity.WARNING)
def hub_unreachable(messages: Messages) -> Iterator[Hit]:
    """The Hub could not be reached, which is no defect of the adapter.

    ## Why it matters
    Nothing was learnt about base or adapter.

    ## Common causes
    No network, a proxy, a rate limit, offline mode without a cached copy.

    ## Fix
    Try again, log in to raise a rate limit, or download once with `hf download` and go offline then.
    """
    yield from messages.hits("AD933")
