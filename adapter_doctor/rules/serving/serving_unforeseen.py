"""AD704: serving unforeseen."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Serving
from adapter_doctor.findings import Hit, Severity, Undecided
from adapter_doctor.rules import rule
from adapter_doctor.rules.serving._sayings import required


@rule("AD704", Severity.ERROR)
def serving_unforeseen(serving: Serving) -> Iterator[Hit]:
    """What an engine named with `--for` does with the adapter is not known.

    ## Why it matters
    Not known is not fine: the adapter may be refused, or served as the base model.

    ## Common causes
    A release between two that were read, or a trait that nobody has looked up in the engine's source.

    ## Fix
    Name a release that was read, or compare the engine's outputs with PEFT's on a few prompts before relying on it.
    """
    for outlook in required(serving):
        whys = [one.why for one in outlook.effects if one.outcome == "unknown"]
        if whys:
            raise Undecided(f"{outlook.engine} {outlook.version}: {whys[0]}")
    yield from ()
