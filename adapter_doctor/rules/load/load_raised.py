"""AD501: load raised."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import LoadOutcome
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD501", Severity.ERROR, explains=("AD502", "AD503"))
def load_raised(outcome: LoadOutcome) -> Iterator[Hit]:
    """Loading raised an exception.

    ## Why it matters
    The adapter cannot be used on this base in this environment as it is.

    ## Common causes
    The other findings name them; where this one stands alone, it is a case that no rule knows yet.

    ## Fix
    Read the library's message; if it does not help, report it with the output of `adapter-doctor check … --format json`.
    """
    if outcome.refusal is not None:
        yield Hit(f"{outcome.refusal.stage}: {outcome.refusal.line}")
