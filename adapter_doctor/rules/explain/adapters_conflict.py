"""AD922: adapters conflict."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD922", Severity.ERROR)
def adapters_conflict(messages: Messages) -> Iterator[Hit]:
    """Adapters on one model do not go together, or the one that is named is not there.

    ## Why it matters
    Which adapter is on decides what the model answers; PEFT refuses what it cannot combine.

    ## Common causes
    A name that was never loaded, `bias` or `target_parameters` on more than one adapter, other types or
    `modules_to_save` side by side.

    ## Fix
    Load each adapter with `model.load_adapter(folder, adapter_name=...)` and name it as it was loaded; keep what cannot
    be combined on a base of its own.
    """
    yield from messages.hits("AD922")
