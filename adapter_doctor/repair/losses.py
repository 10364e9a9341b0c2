"""Planners for repairs that lose something: each only where its own flag accepts the loss."""

from __future__ import annotations

from adapter_doctor.facts import Comparison, Missing, TensorValues
from adapter_doctor.repair.plan import Case, Step
from adapter_doctor.repair.recipes import Cleaned, Recipe, Rows, leaves, transposed


def drop_rows(case: Case) -> Step | None:
    """Cut embeddings and heads to the base's vocabulary."""
    comparison = case.facts.get(Comparison)
    if "rows" not in case.wishes.losses or isinstance(comparison, Missing):
        return None
    makes: dict[str, Recipe] = {}
    rows: set[tuple[int, int]] = set()
    for clash in comparison.clashes.get("rows", ()):
        axis = 1 if "lora_embedding_A" in clash.key else 0
        have, want = clash.in_file[axis], clash.in_model[axis]
        if have > want and clash.key in case.draft.tensors:
            recipe = case.draft.tensors[clash.key]
            makes[clash.key] = transposed(Rows(transposed(recipe), 0, want)) if axis else Rows(recipe, 0, want)
            rows.add((have, want))
    if not makes:
        return None
    have, want = max(rows)
    what = f"cut {len(makes)} tensors from {have} rows to the {want} of the base's vocabulary"
    loss = f"what was learnt for the {have - want} tokens from {want} on, which this base does not have"
    return Step("AD308", what, makes=makes, drops=frozenset(makes), loss=loss)


def drop_layers(case: Case) -> Step | None:
    """Take out the tensors of layers that the base does not have."""
    comparison = case.facts.get(Comparison)
    if "layers" not in case.wishes.losses or isinstance(comparison, Missing):
        return None
    keys = frozenset(comparison.strays.get("layer", ())) & case.draft.tensors.keys()
    if not keys or len(keys) == len(case.draft.tensors):
        return None
    layers = next((one for one in comparison.dimensions if one.name == "layers"), None)
    counts = f" (it has {layers.in_base}, the adapter {layers.in_adapter})" if layers else ""
    what = f"take out {len(keys)} tensors of layers that the base does not have{counts}"
    return Step("AD307", what, drops=keys, loss=f"{len(keys)} of {len(case.draft.tensors)} trained tensors")


def zero_nan(case: Case) -> Step | None:
    """Put zero for every NaN and infinity."""
    values = case.facts.get(TensorValues)
    if "nan" not in case.wishes.losses or isinstance(values, Missing):
        return None
    bad = {
        info: one.nan + one.infinite
        for name, one in values.summaries.items()
        if (one.nan or one.infinite) and (info := case.draft.original.get(name)) is not None
    }
    makes: dict[str, Recipe] = {}
    for name, recipe in case.draft.tensors.items():
        if not isinstance(recipe, Cleaned) and any(info in bad for info in leaves(recipe)):
            makes[name] = Cleaned(recipe)
    if not makes:
        return None
    spoilt = sum(bad.get(info, 0) for one in makes.values() for info in leaves(one))
    what = f"put zero for {spoilt:,} values that are NaN or infinite, in {len(makes)} tensors"
    return Step("AD213", what, makes=makes, drops=frozenset(makes), loss=f"{spoilt:,} values; the training diverged, and the others may be spoilt too")  # fmt: skip
