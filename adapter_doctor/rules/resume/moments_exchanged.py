"""AD831: moments exchanged."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Missing, OptimizerState, OptimizerValues, TrainableParameters
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.parameter_splits import paired
from adapter_doctor.rules import rule


@rule("AD831", Severity.ERROR)
def moments_exchanged(
    state: OptimizerState, values: OptimizerValues, trainables: TrainableParameters | Missing
) -> Iterator[Hit]:
    """Parameters of equal shape have each other's moments, by their values.

    ## Why it matters
    No shape tells, and torch takes them without a word: the training goes on with moments of other parameters. LoRA's B
    begins at zero, so it points along the steps that Adam made from its own first moment, and not along another's.

    ## Common causes
    Another order of modules in the code or in PEFT; a state edited by hand.

    ## Fix
    Make the optimizer's groups in the order of the training, with the versions of PEFT and transformers that it ran on.
    """
    if not values.misplaced:
        return
    pairs = paired(state, trainables) if isinstance(trainables, TrainableParameters) else ()
    named = {key: one.name for key, one, _ in pairs}
    yield Hit(
        f"the first moments of {len(values.misplaced)} parameters point along the weights of another of the same shape, and"
        " not along their own",
        where=state.file,
        count=len(values.misplaced),
        examples=some(
            f"{named.get(is_at, is_at)} has that of {named.get(belongs, belongs)}"
            for is_at, belongs in values.misplaced
        ),
    )
