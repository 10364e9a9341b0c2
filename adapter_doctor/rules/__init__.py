"""What a rule is: a function of the facts it names, found by lying in a folder of this package."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Generic, ParamSpec

from adapter_doctor import facts as facts_module
from adapter_doctor.facts import Missing
from adapter_doctor.findings import Hit, Severity

P = ParamSpec("P")


@dataclass(frozen=True)
class Rule(Generic[P]):
    """A check with its declaration: code, name, severity, what it reads, and what else it accounts for.

    ``reads`` maps each parameter to the type of fact it takes; those in ``optional`` may be handed a ``Missing``.
    ``explains`` are codes, or beginnings of codes, whose findings follow from this one's.
    """

    code: str
    severity: Severity
    since: str
    explains: tuple[str, ...]
    check: Callable[P, Iterator[Hit]]
    reads: tuple[tuple[str, type], ...]
    optional: frozenset[str]
    repairable: bool = False

    @property
    def name(self) -> str:
        """The defect, as a slug that reads well after "ignore"."""
        return self.check.__name__.replace("_", "-")

    @property
    def title(self) -> str:
        """The first sentence of the docstring."""
        return inspect.getdoc(self.check).partition("\n")[0]  # type: ignore[union-attr]

    @property
    def body(self) -> str:
        """The rest of the docstring: why it matters, common causes, fix."""
        return inspect.getdoc(self.check).partition("\n")[2].strip()  # type: ignore[union-attr]

    @property
    def fix(self) -> str:
        """The general cure, from the docstring's last section."""
        return " ".join(self.body.partition("## Fix")[2].split())

    def named(self, entry: str) -> bool:
        """Whether the user means this rule by ``entry``: its code, the beginning of it, or its name."""
        return self.code.startswith(entry) or self.name == entry

    def accounts_for(self, code: str) -> bool:
        """Whether a finding with this code follows from this rule's."""
        return any(code.startswith(start) for start in self.explains) and code != self.code


def rule(
    code: str,
    severity: Severity,
    *,
    since: str = "0.1",
    explains: tuple[str, ...] = (),
    repairable: bool = False,
) -> Callable[[Callable[P, Iterator[Hit]]], Rule[P]]:
    """Declare a rule. Its parameters' annotations name the facts it reads; ``X | Missing`` marks one it can do without.

    Raises:
        TypeError: a parameter is not annotated with a fact, or the docstring has no ``## Fix``.
    """

    def declare(check: Callable[P, Iterator[Hit]]) -> Rule[P]:
        hints = typing.get_type_hints(check)
        hints.pop("return", None)
        reads, optional = [], set()
        for parameter, hint in hints.items():
            kind = hint
            if isinstance(hint, types.UnionType):
                (kind,) = (part for part in typing.get_args(hint) if part is not Missing)
                optional.add(parameter)
            if getattr(kind, "__module__", "") != facts_module.__name__:
                raise TypeError(f"{code} {check.__name__}: {parameter} is {kind!r}, which is not a fact")
            reads.append((parameter, kind))
        if "## Fix" not in (check.__doc__ or ""):
            raise TypeError(f"{code} {check.__name__} has no `## Fix` section")
        return Rule(code, severity, since, explains, check, tuple(reads), frozenset(optional), repairable)

    return declare


OWN_COMMANDS = {"6": "upload", "8": "resume", "9": "explain"}
"""Families of rules, by the first digit of their codes, that only the command of this name runs. So is their folder."""


def all_rules() -> tuple[Rule[...], ...]:
    """Every rule there is, by code. A rule is registered by lying in ``rules/<family>/<slug>.py``."""
    return _found(frozenset())


def rules_of(command: str = "check") -> tuple[Rule[...], ...]:
    """The rules that a command runs: those of an examination, and its own family's."""
    return _found(frozenset(OWN_COMMANDS.values()) - {command})


@cache
def _found(left_out: frozenset[str]) -> tuple[Rule[...], ...]:
    """The rules in all folders but these, which are not even imported."""
    found = []
    for path in sorted(Path(__file__).parent.glob("[a-z]*/[a-z]*.py")):
        if path.parent.name not in left_out:
            module = import_module(f"{__name__}.{path.parent.name}.{path.stem}")
            found.append(getattr(module, path.stem))
    return tuple(sorted(found, key=lambda one: one.code))
