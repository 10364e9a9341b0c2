"""AD928: pickle refused."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD928", Severity.ERROR)
def pickle_refused(messages: Messages) -> Iterator[Hit]:
    """A file is refused by torch because unpickling it could run code.

    ## Why it matters
    The file names objects beyond tensors, which unpickling would build; with `weights_only=False` it may run any code
    that its author put in.

    ## Common causes
    A checkpoint saved as a whole (model object, training arguments, numpy state), or a torch too old for a safe load.

    ## Fix
    Take the safetensors file, or upgrade torch; allow single classes with `torch.serialization.add_safe_globals` only
    in files you trust.
    """
    yield from messages.hits("AD928")
