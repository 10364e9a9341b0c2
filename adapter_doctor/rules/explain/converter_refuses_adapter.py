"""AD930: converter refuses adapter."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD930", Severity.ERROR)
def converter_refuses_adapter(messages: Messages) -> Iterator[Hit]:
    """A converter or another runtime does not know the adapter's tensors or format.

    ## Why it matters
    What it does not know it refuses or leaves out.

    ## Common causes
    A PEFT folder given to MLX, an MLX or kohya file given to PEFT, LoRA on embeddings or `lm_head` for GGUF.

    ## Fix
    Give it the format that it reads, or merge the adapter into the base and convert the merged model.
    """
    yield from messages.hits("AD930")
