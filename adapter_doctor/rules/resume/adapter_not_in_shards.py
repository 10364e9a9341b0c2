"""AD834: adapter not in shards."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD834", Severity.ERROR)
def adapter_not_in_shards(checkpoint: Checkpoint) -> Iterator[Hit]:
    """What FSDP saved of the model holds no tensor: the adapter is not in it.

    ## Why it matters
    A resume loads the model from there alone. It goes on from a new adapter under the moments of the trained one, and nothing
    says so.

    ## Common causes
    FSDP1 (`fsdp_config: {"version": 1}`) with layers wrapped each: PEFT 0.21 looks for the adapter's parameters under the
    names of the wrapped layers, finds none, and an empty state is saved.

    ## Fix
    Where `adapter_model.safetensors` lies beside it, load that into the model before the training and begin anew with
    a warm-up; else the weights of this step are lost. Train with FSDP2 (`"version": 2`), which saves them.
    """
    if checkpoint.shards is not None and checkpoint.shards.empty:
        yield Hit("it lists no tensor: a resume would go on with a new adapter", where=checkpoint.shards.empty)
