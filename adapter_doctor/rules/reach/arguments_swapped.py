"""AD007: arguments swapped."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterFolder, BaseFolder
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD007", Severity.ERROR, explains=("AD001", "AD006", "AD008", "AD010", "AD101", "AD201"))
def arguments_swapped(base: BaseFolder, adapter: AdapterFolder) -> Iterator[Hit]:
    """Base and adapter are the wrong way round.

    ## Why it matters
    Nothing is wrong with either of them.

    ## Common causes
    `check BASE ADAPTER` was typed as `check ADAPTER BASE`.

    ## Fix
    Swap the two arguments: `adapter-doctor check BASE ADAPTER`.
    """
    if base.adapter_base is not None and "adapter_config.json" not in adapter.files and "config.json" in adapter.files:
        yield Hit(
            f"{base.reference!r} is an adapter and {adapter.reference!r} a base model; expected the base first",
            fix=f"adapter-doctor check {adapter.reference} {base.reference}",
        )
