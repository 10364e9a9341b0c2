"""AD606: a secret in a text file."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Secrets
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD606", Severity.ERROR)
def secret_inside(secrets: Secrets) -> Iterator[Hit]:
    """A token or key stands in a text file that would be sent.

    ## Why it matters
    What is on the Hub is read by bots within minutes, and stays in the repository's history after it is deleted.

    ## Common causes
    A notebook, script or log beside the adapter; a token pasted into the card's example.

    ## Fix
    Remove it from the file, and revoke it where it was made if the file was ever shared.
    """
    for one in secrets.found[:20]:
        yield Hit(f"line {one.line} of {one.file} holds a secret ({one.kind}): {one.masked}", where=one.file)
