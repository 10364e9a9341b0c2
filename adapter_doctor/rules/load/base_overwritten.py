"""AD504: base overwritten."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import BaseCopies, LoadOutcome
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD504", Severity.ERROR)
def base_overwritten(outcome: LoadOutcome, copies: BaseCopies) -> Iterator[Hit]:
    """Loading the adapter changed weights of the base itself.

    ## Why it matters
    `disable_adapter()` and `unload()` do not bring them back: the base is another model from then on.

    ## Common causes
    Tensors in the file that carry names of base weights.

    ## Fix
    Remove those tensors from the file, or name their modules in `modules_to_save` if they were trained.
    """
    changed = [key for key in outcome.overwritten if key in copies.different] or list(outcome.changed_base)
    if changed:
        yield Hit(
            f"{len(changed)} base weights were replaced by other values", count=len(changed), examples=some(changed)
        )
