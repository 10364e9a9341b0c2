"""What engines will do, as text: a line an engine, and for those asked for by name what to type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adapter_doctor.facts import OUTCOMES, Effect, Outlook
from adapter_doctor.render.visible import visible

WORDS = {
    "served": "served as trained",
    "refused": "refused",
    "late": "fails at the first request",
    "wrong": "served wrongly",
    "unknown": "cannot tell",
    "inapplicable": "does not apply",
}


def lines(outlooks: Sequence[Outlook]) -> Iterator[tuple[str, bool]]:
    """Lines of text without an indent; the second says that a line is to be pasted and must not be wrapped."""
    wide = max((len(_named(one)) for one in outlooks), default=0)
    for outlook in outlooks:
        reason = f": {_reason(outlook)}" if outlook.effects else ""
        yield visible(f"{_named(outlook):<{wide}}  {WORDS[outlook.outcome]}{reason}", 400), False
        for note in outlook.notes:
            yield visible(f"{'':<{wide}}  note: {note}", 300), False
    for outlook in outlooks:
        if outlook.required and outlook.commands:
            yield "", False
            yield visible(f"for {_named(outlook)}:", 200), False
            for command in outlook.commands:
                for line in command.splitlines():
                    yield visible(line, 2000), True


def _named(outlook: Outlook) -> str:
    return f"{outlook.engine} {outlook.version}" + (f" ({outlook.adapter})" if outlook.adapter else "")


def _reason(outlook: Outlook) -> str:
    effects = sorted(outlook.effects, key=lambda one: OUTCOMES.index(one.outcome))
    more = f", and {len(effects) - 1} more" if len(effects) > 1 else ""
    return f"{_said(effects[0], outlook)}{more}"


def _said(effect: Effect, outlook: Outlook) -> str:
    dropped = f" ({effect.dropped} of {outlook.tensors} tensors)" if effect.dropped else ""
    quoted = f" — {effect.message}" if effect.message.replace("…", "").strip() else ""
    return f"{effect.why}{dropped}{quoted}"
