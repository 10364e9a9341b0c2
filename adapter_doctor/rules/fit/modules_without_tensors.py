"""AD304: modules without tensors."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Comparison, Fit
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD304", Severity.ERROR, explains=("AD503", "AD803", "AD804", "AD805", "AD815"))
def modules_without_tensors(comparison: Comparison, fit: Fit) -> Iterator[Hit]:
    """Targeted modules have no tensors in the file.

    ## Why it matters
    PEFT leaves them at their initial values and only warns, so they add nothing.

    ## Common causes
    A config that targets more than was trained, a file that lost part of its tensors, a partial conversion.

    ## Fix
    Narrow `target_modules` to what was trained, or save the adapter again from the trained model.
    """
    keys = [key for reason in ("missing", "covered", "half") for key in comparison.vacant.get(reason, ())]
    if keys:
        yield Hit(
            f"{len(keys)} of {len(fit.places)} places in the model get no tensor", count=len(keys), examples=some(keys)
        )
