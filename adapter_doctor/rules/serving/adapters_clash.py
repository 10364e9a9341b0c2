"""AD705: adapters clash."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Serving
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD705", Severity.ERROR)
def adapters_clash(serving: Serving) -> Iterator[Hit]:
    """Adapters that are to be served together (`--with`) have the same name or different bases.

    ## Why it matters
    A server has one base, and requests choose an adapter by its name.

    ## Common causes
    Folders called `adapter` or `final`; adapters of the base model and of its instruct version side by side.

    ## Fix
    Give each adapter a name of its own, and serve adapters of different bases from different servers.
    """
    for clash in serving.clashes:
        yield Hit(clash)
