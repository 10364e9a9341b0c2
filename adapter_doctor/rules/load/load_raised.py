"""AD501: load raised."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Fit, LoadOutcome, Missing
from adapter_doctor.findings import Hit, Severity, Undecided, counted, some
from adapter_doctor.rules import rule


@rule("AD501", Severity.ERROR, explains=("AD502", "AD503", "AD803", "AD804", "AD805", "AD815"))
def load_raised(fit: Fit | Missing, outcome: LoadOutcome | Missing) -> Iterator[Hit]:
    """Loading the adapter raises an exception.

    ## Why it matters
    The adapter cannot be used on this base in this environment as it is.

    ## Common causes
    The other findings name them; where this one stands alone, it is a case that no rule knows yet.

    ## Fix
    Read the library's message; if it does not help, report it with the output of `adapter-doctor check … --format json`.
    """
    if isinstance(outcome, LoadOutcome) and outcome.refusal is not None:
        yield Hit(f"{outcome.refusal.stage}: {outcome.refusal.line}")
    elif isinstance(fit, Fit) and fit.refusal is not None:
        yield Hit(f"PEFT would raise {fit.refusal.line}")
    elif isinstance(fit, Fit) and fit.clashes:
        yield Hit(f"PEFT would raise a size mismatch for {counted(len(fit.clashes), 'tensor', 'tensors')}", count=len(fit.clashes),
                  examples=some(clash.key for clash in fit.clashes))  # fmt: skip
    elif isinstance(fit, Missing):
        raise Undecided(fit.why)
