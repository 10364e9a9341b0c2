"""AD608: a base that others cannot fetch."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import BaseAccess
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD608", Severity.WARNING)
def base_not_public(access: BaseAccess) -> Iterator[Hit]:
    """Others cannot fetch the base that the config names.

    ## Why it matters
    An adapter is of no use without its base: whoever is not allowed to read that repository cannot load it.

    ## Common causes
    A private copy of a public base; a repository that was renamed or deleted.

    ## Fix
    Name the public base that the copy was made of, if the weights are the same; or publish the base too.
    """
    if access.state == "absent":
        yield Hit(f"without a token the Hub shows no repository {access.reference}", where="adapter_config.json")
