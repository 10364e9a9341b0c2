"""AD502: tensors ignored."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, Fit
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD502", Severity.ERROR)
def tensors_ignored(tensors: AdapterTensors, fit: Fit) -> Iterator[Hit]:
    """Tensors of the file do not land in the model.

    ## Why it matters
    PEFT drops tensors that find no place without a word; what they had learnt is not applied.

    ## Common causes
    The other findings name them: renamed modules, narrower targets, another base.

    ## Fix
    Cure the cause named above; that PEFT loads without an error is no proof.
    """
    if fit.strays:
        yield Hit(f"{len(fit.strays)} of {len(tensors)} tensors find no place in the model", count=len(fit.strays),
                  examples=some(fit.strays))  # fmt: skip
