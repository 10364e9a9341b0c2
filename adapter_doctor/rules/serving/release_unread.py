"""AD706: release unread."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Serving
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.serving._sayings import required


@rule("AD706", Severity.WARNING)
def release_unread(serving: Serving) -> Iterator[Hit]:
    """The engine's release is not one that its profile was read from.

    ## Why it matters
    Engines change what they refuse and what they drop from one release to the next.

    ## Common causes
    A release newer than this tool.

    ## Fix
    Update adapter-doctor, or compare the engine's outputs with PEFT's on a few prompts.
    """
    for outlook in required(serving):
        for note in outlook.notes:
            yield Hit(f"{outlook.engine} {outlook.version}: {note}")
