"""From outcomes to a diagnosis: one principal cause, and what follows from it folded under it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from adapter_doctor.engine import Crashed, Fired, Outcome, Unknown
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import Rule

# Where a cause lies decides which of two unrelated errors is named first: what cannot be reached or run at all, then
# the files, the tensors, their fit, and only then what the load showed.
_FAMILY_ORDER = {"0": 0, "4": 1, "1": 2, "2": 3, "3": 4, "5": 5}


@dataclass(frozen=True, slots=True)
class Finding:
    """A fired rule in a report; ``consequence_of`` is the code of the finding that it follows from."""

    rule: Rule[...]
    hits: tuple[Hit, ...]
    consequence_of: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Findings in the order to be read: cause, other errors, warnings, notes; then what could not be examined."""

    cause: Finding | None
    findings: tuple[Finding, ...]
    unknown: tuple[Unknown, ...]
    crashed: tuple[Crashed, ...]


def diagnose(outcomes: Iterable[Outcome]) -> Diagnosis:
    """The diagnosis of one examination."""
    outcomes = tuple(outcomes)
    fired = [outcome for outcome in outcomes if isinstance(outcome, Fired)]
    findings = [Finding(one.rule, one.hits, _cause_of(one.rule, fired)) for one in fired]
    findings.sort(key=_order)
    errors = [one for one in findings if one.rule.severity is Severity.ERROR]
    alone = [one for one in errors if one.consequence_of is None]
    return Diagnosis(
        cause=next(iter(alone or errors), None),
        findings=tuple(findings),
        unknown=tuple(one for one in outcomes if isinstance(one, Unknown)),
        crashed=tuple(one for one in outcomes if isinstance(one, Crashed)),
    )


def _cause_of(rule: Rule[...], fired: list[Fired]) -> str | None:
    """The code of the finding that accounts for this rule's, followed to its own cause; None where it stands alone."""
    seen = {rule.code}
    current = rule
    while True:
        causes = [
            one.rule
            for one in fired
            if one.rule.code not in seen
            and one.rule.accounts_for(current.code)
            and not (current.accounts_for(one.rule.code) and _rule_order(current) < _rule_order(one.rule))
            and one.rule.severity >= Severity.WARNING
            and (one.rule.severity is Severity.ERROR or current.severity < Severity.ERROR)
        ]
        if not causes:
            break
        current = min(causes, key=_rule_order)
        seen.add(current.code)
    return current.code if current is not rule else None


def _rule_order(rule: Rule[...]) -> tuple[int, str]:
    return _FAMILY_ORDER.get(rule.code[2], 9), rule.code


def _order(finding: Finding) -> tuple[int, bool, int, str]:
    place, code = _rule_order(finding.rule)
    return -finding.rule.severity, finding.consequence_of is not None, place, code
