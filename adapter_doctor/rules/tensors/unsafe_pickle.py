"""AD206: unsafe pickle."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import PickleScan
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD206", Severity.ERROR, explains=("AD2", "AD3", "AD5"))
def unsafe_pickle(scan: PickleScan) -> Iterator[Hit]:
    """The weight file would run code, or build objects, when it is unpickled.

    ## Why it matters
    `torch.load(weights_only=True)` refuses it; anything else would execute what its author put there. It was not
    loaded here.

    ## Common causes
    A malicious upload; or a whole Python object (a trainer, a config) saved beside the tensors.

    ## Fix
    Do not load this file. Ask its author for `adapter_model.safetensors`; never pass `weights_only=False` for it.
    """
    if scan.unexpected:
        worst = scan.dangerous or scan.unexpected
        what = "runs code through" if scan.dangerous else "builds objects that are no tensors, through"
        yield Hit(f"the pickle {what} {', '.join(worst[:3])}", where=scan.file, count=len(worst), examples=some(worst))
