"""AD002: adapter not found."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterFolder
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD002", Severity.ERROR)
def adapter_not_found(adapter: AdapterFolder) -> Iterator[Hit]:
    """The adapter cannot be found.

    ## Why it matters
    There is nothing to examine.

    ## Common causes
    A typing error, a folder of another machine, a repository that was renamed or made private.

    ## Fix
    Give the folder that holds `adapter_config.json`, or the adapter's id on the Hub.
    """
    if not adapter.exists and adapter.reason in ("", "not-found"):
        yield Hit(f"the adapter {adapter.reference!r} cannot be read: {adapter.why}", where=adapter.reference)
