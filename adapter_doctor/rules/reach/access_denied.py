"""AD003: access denied."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterFolder, BaseFolder
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD003", Severity.ERROR)
def access_denied(base: BaseFolder, adapter: AdapterFolder) -> Iterator[Hit]:
    """The base or the adapter is there, but you are not allowed to read it.

    ## Why it matters
    What cannot be read cannot be judged, and cannot be loaded either.

    ## Common causes
    File permissions; on the Hub a private repository, a missing or expired token, or terms that were not accepted.

    ## Fix
    Make the files readable (`chmod -R u+rX FOLDER`); on the Hub run `hf auth login` with a token that may read the
    repository and, where it is gated, accept its terms on its page.
    """
    for kind, folder in (("base", base), ("adapter", adapter)):
        if not folder.exists and folder.reason in ("denied", "gated"):
            yield Hit(f"the {kind} {folder.reference!r} may not be read: {folder.why}", where=folder.reference)
