"""AD006: base is an adapter."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import BaseFolder
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD006", Severity.ERROR, explains=("AD001", "AD3", "AD402", "AD5"))
def base_is_an_adapter(base: BaseFolder) -> Iterator[Hit]:
    """The folder given as the base holds an adapter.

    ## Why it matters
    transformers loads such a folder without a word: it fetches the adapter's own base and puts that adapter on, and
    yours would come on top of it.

    ## Common causes
    Training continued from an adapter, and the first adapter's folder was taken for the base.

    ## Fix
    Give the base model itself; to stack on a trained adapter, merge that one into its base first and save the result.
    """
    if base.exists and base.adapter_base is not None:
        named = base.adapter_base or "none"
        yield Hit(
            f"{base.reference!r} holds an adapter_config.json, expected a base model; the base that it names: {named}",
            where=base.reference,
            fix=f"use {base.adapter_base!r} as the base" if base.adapter_base else None,
        )
