"""AD306: width mismatch."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Clash, Comparison
from adapter_doctor.findings import Hit, Severity, counted, some
from adapter_doctor.rules import rule


@rule("AD306", Severity.ERROR, explains=("AD304", "AD501", "AD502", "AD503", "AD803", "AD804", "AD805", "AD815"))
def width_mismatch(comparison: Comparison) -> Iterator[Hit]:
    """The adapter's tensors are of other widths than the base's layers.

    ## Why it matters
    PEFT raises "size mismatch", once for every tensor.

    ## Common causes
    The adapter was trained on another size of the model, or on a fine-tune with another head or vocabulary.

    ## Fix
    Use the base that the adapter was trained on.
    """
    clashes = tuple(one for reason in ("width", "head", "layout") for one in comparison.clashes.get(reason, ()))
    if clashes:
        first = clashes[0]
        apart = [one for one in comparison.dimensions if not one.agrees and one.in_base]
        sizes = "; ".join(f"{one.name} {one.in_adapter} in the adapter, {one.in_base} in the base" for one in apart)
        yield Hit(
            f"{counted(len(clashes), 'tensor has', 'tensors have')} other widths than {'its layer' if len(clashes) == 1 else 'their layers'}: {list(first.in_file)} in the file,"
            f" {list(first.in_model)} in the model" + (f" ({sizes})" if sizes else ""),
            count=len(clashes),
            examples=some(clash.key for clash in clashes),
            fix=_with_labels(comparison.clashes.get("head", ()), len(clashes)),
            repairable=True if clashes == comparison.clashes.get("layout") else None,
        )


def _with_labels(heads: tuple[Clash, ...], clashes: int) -> str | None:
    """The cure where only a saved head differs: it has as many rows as the task has labels."""
    if not heads or len(heads) < clashes:
        return None
    return f"load a base without a head of its own, with `num_labels={heads[0].in_file[0]}`, as in training"
