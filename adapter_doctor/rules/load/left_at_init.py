"""AD503: left at init."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Fit
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD503", Severity.ERROR)
def left_at_init(fit: Fit) -> Iterator[Hit]:
    """Places in the model get no tensor and keep their initial values.

    ## Why it matters
    Those modules add nothing, or noise. PEFT only warns ("Found missing adapter keys"), and not for every method.

    ## Common causes
    The other findings name them: renamed modules, wider targets, lost tensors.

    ## Fix
    Cure the cause named above.
    """
    if fit.vacant:
        yield Hit(f"{len(fit.vacant)} of {len(fit.places)} places in the model get no tensor", count=len(fit.vacant),
                  examples=some(fit.vacant))  # fmt: skip
