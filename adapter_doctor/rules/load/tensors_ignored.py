"""AD502: tensors ignored."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import LoadOutcome
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD502", Severity.ERROR)
def tensors_ignored(outcome: LoadOutcome) -> Iterator[Hit]:
    """Tensors of the file did not land in the model.

    ## Why it matters
    PEFT drops tensors that find no place without a word; what they had learnt is not applied.

    ## Common causes
    The other findings name them: renamed modules, narrower targets, another base.

    ## Fix
    Cure the cause named above; that PEFT loads without an error is no proof.
    """
    if outcome.ignored and outcome.refusal is None:
        yield Hit(f"{len(outcome.ignored)} of {outcome.in_file} tensors did not land", count=len(outcome.ignored),
                  examples=some(outcome.ignored))  # fmt: skip
