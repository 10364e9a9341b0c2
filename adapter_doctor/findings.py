"""The words every part of the tool shares: how bad a defect is, and one sighting of it."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass


class Severity(enum.IntEnum):
    """How much a defect matters, by consequence."""

    NOTE = 1
    """Worth knowing."""
    WARNING = 2
    """It works, but not as its author meant, or not for everyone."""
    ERROR = 3
    """It will not load, or it loads and some of it is not applied."""

    @property
    def label(self) -> str:
        """The word used in reports: ``error``, ``warning`` or ``note``."""
        return self.name.lower()


_SECRETS = re.compile(r"\bhf_[A-Za-z0-9]{16,}|(?<=://)[^/\s@]{1,500}(?=@)")
"""Tokens of the Hub, and the user and password in a web address."""


def masked(text: str) -> str:
    """``text`` without the secrets that a stranger's config or a path may hold: a report is passed on."""
    return _SECRETS.sub(lambda found: "hf_…" if found[0].startswith("hf_") else "…", text)


@dataclass(frozen=True, slots=True)
class Hit:
    """One sighting of a defect: it speaks for a whole class of tensors or fields, not for one of them.

    ``message`` says what is there, then what was expected; ``fix`` is an imperative for this very case and stands in
    for the general advice on the rule's page. ``repairable`` says whether `adapter-doctor fix` can mend this very case,
    where that is not as for the rule's others.
    """

    message: str
    where: str | None = None
    count: int = 1
    examples: tuple[str, ...] = ()
    fix: str | None = None
    repairable: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", masked(self.message))
        object.__setattr__(self, "examples", tuple(map(masked, self.examples)))
        if self.fix is not None:
            object.__setattr__(self, "fix", masked(self.fix))


class Undecided(Exception):
    """Raised by a rule that has its facts and still cannot tell; it ends as unknown, with this reason."""


def some(names: object, most: int = 3) -> tuple[str, ...]:
    """The first few of ``names`` in their own order, as examples for a :class:`Hit`."""
    return tuple(str(name) for name, _ in zip(names, range(most), strict=False))  # type: ignore[call-overload]


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names in a sentence: the first few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number: int, one: str, many: str) -> str:
    """A number with the words behind it, as they are for one and for many."""
    return f"{number:,} {one if number == 1 else many}"
