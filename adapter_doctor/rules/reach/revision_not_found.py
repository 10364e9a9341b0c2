"""AD004: revision not found."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterFolder, BaseFolder
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD004", Severity.ERROR)
def revision_not_found(base: BaseFolder, adapter: AdapterFolder) -> Iterator[Hit]:
    """The branch, tag or commit does not exist.

    ## Why it matters
    Another revision may be another model.

    ## Common causes
    A deleted branch, a force-pushed history, a commit of another repository.

    ## Fix
    Look up the branches and tags on the repository's page, and give one of them after `@`.
    """
    for kind, folder in (("base", base), ("adapter", adapter)):
        if not folder.exists and folder.reason == "revision":
            yield Hit(f"the {kind} {folder.reference!r}: {folder.why}", where=folder.reference)
