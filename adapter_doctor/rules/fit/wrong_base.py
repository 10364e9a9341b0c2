"""AD314: wrong base."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, BaseFolder, Comparison
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.base_names import same_base
from adapter_doctor.rules import rule


@rule(
    "AD314",
    Severity.ERROR,
    explains=(
        "AD301",
        "AD302",
        "AD303",
        "AD304",
        "AD305",
        "AD306",
        "AD307",
        "AD308",
        "AD309",
        "AD312",
        "AD317",
        "AD319",
        "AD5",
        "AD220",
    ),
)
def wrong_base(config: AdapterConfig, comparison: Comparison, base: BaseFolder) -> Iterator[Hit]:
    """The adapter was made for another base model.

    ## Why it matters
    Sizes or module names disagree throughout, so no edit of the adapter makes it work on this base.

    ## Common causes
    The base's name in the config was edited; another size or family of the model was given.

    ## Fix
    Load it on the base that it was trained on.
    """
    sizes = [
        one for one in comparison.dimensions if one.in_base is not None and one.name not in ("layers", "vocabulary")
    ]
    apart = [one for one in sizes if not one.agrees]
    agreeing = [one for one in comparison.dimensions if one.agrees]
    told = "; ".join(f"{one.name} {one.in_adapter} against {one.in_base}" for one in apart)
    same = f"; {', '.join(one.name for one in agreeing)} agree" if agreeing else ""
    known = config.base_name and not same_base(config.base_name, base.reference)
    named = f"use the base that the adapter names: {config.base_name}" if known else None
    other_reasons = (
        "wrapper",
        "double-prefix",
        "no-prefix",
        "adapter-name",
        "renamed",
        "fused",
        "experts",
        "switched-off",
    )
    wide = len(comparison.clashes.get("width", ()))
    throughout = len(apart) * 2 >= len(sizes) or wide * 2 >= comparison.adapter_modules
    misfits = wide or comparison.strays.get("absent") or comparison.strays.get("layer")
    if misfits and any(one.name == "hidden size" for one in apart) and throughout:
        yield Hit(f"the adapter's sizes are not the base's: {told}{same}", where=base.reference, fix=named)
    elif (
        comparison.adapter_modules and not comparison.shared_modules
        and not any(comparison.strays.get(reason) for reason in other_reasons) and comparison.strays.get("absent")
    ):  # fmt: skip
        absent = comparison.strays["absent"]
        yield Hit(
            f"none of the {comparison.adapter_modules} modules that the adapter has tensors for exists in the base",
            where=base.reference,
            count=len(absent),
            examples=some(absent),
            fix=named,
        )
