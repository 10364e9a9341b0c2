"""AD929: engine refuses adapter."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Messages
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD929", Severity.ERROR)
def engine_refuses_adapter(messages: Messages) -> Iterator[Hit]:
    """A serving engine does not take this adapter.

    ## Why it matters
    Engines support a part of what PEFT writes: ranks up to a limit, certain modules, no DoRA, no saved heads.

    ## Common causes
    Rank above `max_lora_rank`, `modules_to_save`, targets that the engine's model does not have, a base it names
    otherwise.

    ## Fix
    Start the engine with the limits that the adapter needs, or merge the adapter into the base and serve the result.
    """
    yield from messages.hits("AD929")
