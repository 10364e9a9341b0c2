"""AD314: wrong base."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, AdapterTensors, BaseFolder, Candidates, Comparison, Missing
from adapter_doctor.findings import Hit, Severity, listed, some
from adapter_doctor.formats.base_names import is_local_path, same_base
from adapter_doctor.knowledge.bases import copies, known_as
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
        "AD803",
        "AD804",
        "AD805",
        "AD815",
    ),
)
def wrong_base(
    config: AdapterConfig,
    comparison: Comparison,
    base: BaseFolder,
    candidates: Candidates | Missing,
    tensors: AdapterTensors,
) -> Iterator[Hit]:
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
    other_reasons = (
        "wrapper",
        "double-prefix",
        "no-prefix",
        "adapter-name",
        "renamed",
        "fused",
        "experts",
        "switched-off",
        "unconverted",
    )
    fitting = candidates if isinstance(candidates, Candidates) else Candidates()
    absent = comparison.strays.get("absent", ())
    wide = len(comparison.clashes.get("width", ()))
    throughout = len(apart) * 2 >= len(sizes) or wide * 2 >= comparison.adapter_modules
    misfits = wide or absent or any(comparison.strays.get(reason) for reason in ("layer", "fused", "experts"))
    if misfits and any(one.name == "hidden size" for one in apart) and throughout:
        yield Hit(f"the adapter's sizes are not the base's: {told}{same}", where=base.reference,
                  fix=_cure(config.base_name, base.reference, fitting))  # fmt: skip
    elif (
        comparison.adapter_modules and not comparison.shared_modules and len(absent) * 2 > len(tensors)
        and not any(comparison.strays.get(reason) for reason in other_reasons)
    ):  # fmt: skip
        yield Hit(
            f"none of the {comparison.adapter_modules} modules that the adapter has tensors for exists in the base",
            where=base.reference,
            count=len(absent),
            examples=some(absent),
            fix=_cure(config.base_name, base.reference, fitting),
        )


def _cure(name: str, given: str, candidates: Candidates) -> str | None:
    """Which base to take: the one that the adapter names if it is another, else those whose sizes the tensors have."""
    fitting = candidates.exact or candidates.but_vocabulary
    means = known_as(name) if name else None
    if name and not same_base(name, given):
        local = is_local_path(name)
        what = f"{means or 'the folder'}, by the path {name!r}" if local else name
        proof = "; the tensors have its sizes" if copies().get(means or "", means) in fitting else ""
        return f"use the base that the adapter names: {what}{proof}"
    if not fitting:
        return None
    but = "" if candidates.exact else ", but for the vocabulary"
    return f"use the base of the training: the tensors have the sizes of {listed(fitting)}{but}"
