"""AD204: weights unreadable."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import WeightsFiles
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD204", Severity.ERROR, explains=("AD5",))
def weights_unreadable(weights: WeightsFiles) -> Iterator[Hit]:
    """The weight file is not what its name says.

    ## Why it matters
    No library can read it.

    ## Common causes
    A damaged disk or transfer, another format saved under this name, a hand-made file.

    ## Fix
    Copy the file again from where it was written, or save the adapter anew with `model.save_pretrained(folder)`.
    """
    if weights.chosen is not None and weights.chosen.state in ("unreadable", "too-large"):
        yield Hit(weights.chosen.detail, where=weights.chosen.name)
