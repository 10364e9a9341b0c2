"""AD822: own groups."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint, OptimizerState, TrainableParameters
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.parameter_splits import TRAINER, split_of
from adapter_doctor.rules import rule


@rule("AD822", Severity.WARNING)
def own_groups(state: OptimizerState, trainables: TrainableParameters, checkpoint: Checkpoint) -> Iterator[Hit]:
    """The optimizer groups its parameters in another way than the Trainer's own.

    ## Why it matters
    A Trainer that makes its own optimizer has two groups, with and without weight decay, and raises on this state.

    ## Common causes
    The training handed its optimizer to the Trainer (`optimizers=`), such as LoRA+, or overrode `create_optimizer`.

    ## Fix
    Make the optimizer in the same way again, and hand it over: `Trainer(optimizers=(optimizer, None))`.
    """
    split = split_of(state.sizes, trainables)
    if checkpoint.writer == "trainer" and split is not None and split[0] != TRAINER:
        yield Hit(
            f"the groups, of {', '.join(map(str, state.sizes[:6]))} parameters, are those of {split[0]}",
            where=state.file,
        )
