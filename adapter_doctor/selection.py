"""Choose the rules of a command by what the user names."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from adapter_doctor.engine import Unknown
from adapter_doctor.errors import DoctorError
from adapter_doctor.findings import Severity
from adapter_doctor.rules import Rule, all_rules, rules_of


def chosen_rules(select: Iterable[str], ignore: Iterable[str], command: str = "check") -> tuple[Rule[...], ...]:
    """Rules of a command that ``select`` names (all of the command's where it is empty).

    Raises:
        DoctorError: an entry of ``select`` or ``ignore`` fits no rule.
    """
    select = tuple(select)
    for entry in (*select, *ignore):
        if not any(rule.named(entry) for rule in all_rules()):
            raise DoctorError(f"no rule has a code that begins with {entry!r}", "see `adapter-doctor rules`")
    return tuple(one for one in rules_of(command) if not select or any(one.named(entry) for entry in select))


def passed_over(rules: Iterable[Rule[...]], chosen: Collection[Rule[...]]) -> list[Unknown]:
    """Those of ``rules`` that were not chosen. An adapter whose errors were not looked for is not called compatible."""
    return [
        Unknown(one, "not asked for (--select)", waived=one.severity is not Severity.ERROR)
        for one in rules
        if one not in chosen
    ]
