"""Run rules over facts: every rule ends as exactly one of Clear, Fired, Unknown or Crashed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from adapter_doctor.facts import Facts, Missing
from adapter_doctor.findings import Hit, Undecided
from adapter_doctor.rules import Rule


@dataclass(frozen=True, slots=True)
class Clear:
    """The rule looked and found nothing."""

    rule: Rule[...]


@dataclass(frozen=True, slots=True)
class Fired:
    """The rule found the defect."""

    rule: Rule[...]
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """The rule could not look, and why; ``waived`` when the user asked for that."""

    rule: Rule[...]
    why: str
    waived: bool = False


@dataclass(frozen=True, slots=True)
class Crashed:
    """The rule itself failed: a fault of ours."""

    rule: Rule[...]
    error: str


Outcome: TypeAlias = Clear | Fired | Unknown | Crashed


def judge(rules: Iterable[Rule[...]], facts: Facts) -> tuple[Outcome, ...]:
    """One outcome for each rule, in the order given."""
    return tuple(_examine(rule, facts) for rule in rules)


def _examine(rule: Rule[...], facts: Facts) -> Outcome:
    arguments: dict[str, Any] = {parameter: facts.get(kind) for parameter, kind in rule.reads}
    for parameter, value in arguments.items():
        if isinstance(value, Missing) and parameter not in rule.optional:
            return Unknown(rule, value.why, value.waived)
    hits: list[Hit] = []
    try:
        hits.extend(rule.check(**arguments))
    except Undecided as reason:
        if not hits:
            return Unknown(rule, str(reason))
    except Exception as error:  # one rule's fault must not take the others' findings down
        return Crashed(rule, f"{type(error).__name__}: {error}")
    return Fired(rule, tuple(hits)) if hits else Clear(rule)
