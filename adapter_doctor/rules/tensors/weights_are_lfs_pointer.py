"""AD202: weights are lfs pointer."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import WeightsFiles
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD202", Severity.ERROR, explains=("AD5",))
def weights_are_lfs_pointer(weights: WeightsFiles) -> Iterator[Hit]:
    """The weight file is a placeholder: a Git LFS pointer or a web page.

    ## Why it matters
    The weights were never downloaded. safetensors says "header too large", which helps nobody.

    ## Common causes
    `git clone` without Git LFS; a download link that led to a page; a proxy's error page saved as the file.

    ## Fix
    Run `git lfs install && git lfs pull` in the clone, or `hf download OWNER/NAME --local-dir FOLDER`.
    """
    if weights.chosen is not None and weights.chosen.state in ("pointer", "html"):
        one = weights.chosen
        yield Hit(f"{one.detail} ({one.size:,} bytes)", where=one.name)
