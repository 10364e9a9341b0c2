"""AD203: weights truncated."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import WeightsFiles
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD203", Severity.ERROR, explains=("AD5",))
def weights_truncated(weights: WeightsFiles) -> Iterator[Hit]:
    """The weight file is cut short.

    ## Why it matters
    Nothing can be read from it, and what is missing cannot be restored.

    ## Common causes
    An interrupted copy or download, a full disk, a job that was killed while it saved.

    ## Fix
    Copy or download the file again and compare its size; if it was never whole, take an earlier checkpoint.
    """
    if weights.chosen is not None and weights.chosen.state in ("truncated", "empty"):
        yield Hit(weights.chosen.detail, where=weights.chosen.name)
