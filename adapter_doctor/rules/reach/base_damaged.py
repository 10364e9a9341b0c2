"""AD011: base damaged."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import BaseFolder
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD011", Severity.ERROR)
def base_damaged(base: BaseFolder) -> Iterator[Hit]:
    """A weight file of the base is truncated, unreadable or lacking.

    ## Why it matters
    The base itself does not load, whatever the adapter is like.

    ## Common causes
    A download or copy that was cut short, a full disk, a web page saved in place of a shard.

    ## Fix
    Fetch the base again: `hf download BASE --local-dir FOLDER` resumes and replaces what is incomplete.
    """
    if base.damage:
        yield Hit(base.damage, where=base.reference)
