"""AD925: nothing trains."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD925", Severity.ERROR)
def nothing_trains(messages: Messages) -> Iterator[Hit]:
    """No parameter that the loss depends on is trainable.

    ## Why it matters
    Without gradients the adapter stays as it was loaded, and `lora_B` stays zero.

    ## Common causes
    `PeftModel.from_pretrained` without `is_trainable=True`, a config with `inference_mode`, gradient checkpointing
    without input gradients, trainable parameters in float16 under a gradient scaler.

    ## Fix
    Load with `is_trainable=True`, call `model.enable_input_require_grads()` with gradient checkpointing, keep trainable
    parameters in float32.
    """
    yield from messages.hits("AD925")
