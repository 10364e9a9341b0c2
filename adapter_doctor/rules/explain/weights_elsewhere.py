"""AD927: weights elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD927", Severity.ERROR)
def weights_elsewhere(messages: Messages) -> Iterator[Hit]:
    """The base's weights are not on a device where the adapter can be put on.

    ## Why it matters
    Offloaded or meta weights have no values at the moment of loading, so layers cannot be built from or moved with
    them.

    ## Common causes
    `device_map="auto"` with too little memory, `low_cpu_mem_usage`, offload folders.

    ## Fix
    Give the base's `device_map` and `offload_folder` to `PeftModel.from_pretrained` as well, or load both on one device
    with enough memory.
    """
    yield from messages.hits("AD927")
