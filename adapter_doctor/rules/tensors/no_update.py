"""AD214: no update."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, AdapterTensors, TensorValues
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.updates import gates
from adapter_doctor.rules import rule


@rule("AD214", Severity.ERROR, explains=("AD215", "AD506"))
def no_update(config: AdapterConfig, tensors: AdapterTensors, values: TensorValues) -> Iterator[Hit]:
    """The adapter changes nothing: every factor that starts at zero is still zero.

    ## Why it matters
    It loads without a word, and the base model answers. This is what an adapter looks like before its first step.

    ## Common causes
    Gradient checkpointing without `enable_input_require_grads()`; the optimizer was given other parameters; the adapter
    was saved before training, or from another process than the one that trained.

    ## Fix
    Train again and watch that `lora_B` moves: `model.print_trainable_parameters()`, and under gradient checkpointing call
    `model.enable_input_require_grads()` first.
    """
    found = gates(config, tensors, values)
    if found.all and not found.other_effects and len(found.idle) == len(found.all):
        yield Hit(
            f"all {len(found.all)} {found.kind} tensors are {found.idle_value}, so the outputs are the base's",
            where=tensors.file,
            count=len(found.all),
            examples=some(found.idle),
        )
