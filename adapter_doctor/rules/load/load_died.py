"""AD505: load died."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import LoadOutcome
from adapter_doctor.findings import Hit, Severity, Undecided
from adapter_doctor.rules import rule


@rule("AD505", Severity.ERROR)
def load_died(outcome: LoadOutcome) -> Iterator[Hit]:
    """The process that loaded the adapter ended without an answer.

    ## Why it matters
    Whether the adapter works is not known.

    ## Common causes
    Too little memory, a time limit that was too short, a crash inside a library.

    ## Fix
    Raise `--time-limit`, free memory, or judge from files alone with `--load no`.
    """
    if outcome.died:
        raise Undecided(outcome.died)
    yield from ()
