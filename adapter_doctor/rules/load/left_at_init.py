"""AD503: left at init."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import LoadOutcome
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD503", Severity.ERROR)
def left_at_init(outcome: LoadOutcome) -> Iterator[Hit]:
    """Places in the model got no tensor and keep their initial values.

    ## Why it matters
    Those modules add nothing, or noise. PEFT only warns ("Found missing adapter keys"), and not for every method.

    ## Common causes
    The other findings name them: renamed modules, wider targets, lost tensors.

    ## Fix
    Cure the cause named above.
    """
    if outcome.left_at_init and outcome.refusal is None:
        yield Hit(f"{len(outcome.left_at_init)} places in the model got no tensor", count=len(outcome.left_at_init),
                  examples=some(outcome.left_at_init))  # fmt: skip
