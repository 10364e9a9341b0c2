"""AD507: output not finite."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import RunOutcome
from adapter_doctor.findings import Hit, Severity, Undecided
from adapter_doctor.rules import rule


@rule("AD507", Severity.ERROR)
def output_not_finite(run: RunOutcome) -> Iterator[Hit]:
    """With the adapter on, outputs are NaN or infinite.

    ## Why it matters
    Nothing can be made of such outputs.

    ## Common causes
    NaN in the tensors, a scaling that overflows float16, a damaged base.

    ## Fix
    Cure the other findings; try bfloat16 instead of float16.
    """
    if run.refusal is not None:
        raise Undecided(f"the forward pass raised {run.refusal.line}")
    if not run.finite:
        alone = "finite" if run.finite_without else "not finite either"
        yield Hit(f"outputs with the adapter on are not finite; with it off they are {alone}")
