"""AD001: base not found."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import BaseFolder
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD001", Severity.ERROR)
def base_not_found(base: BaseFolder) -> Iterator[Hit]:
    """The base model cannot be found.

    ## Why it matters
    Without the base nothing can be said about the fit.

    ## Common causes
    A typing error, a folder of another machine, a repository that was renamed or made private.

    ## Fix
    Give a folder that holds the base's `config.json`, or the base's id on the Hub.
    """
    if not base.exists and base.given and base.reason in ("", "not-found"):
        yield Hit(f"the base {base.reference!r} cannot be read: {base.why}", where=base.reference)
    elif base.exists and "config.json" not in base.files and base.adapter_base is None:
        yield Hit(
            f"{base.reference!r} holds no config.json, expected a transformers model folder",
            where=base.reference,
            examples=tuple(sorted(base.files))[:3],
        )
