"""Take out of the outcomes what the user knows of: rules ignored for a reason, and hits of an earlier report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from adapter_doctor.engine import Clear, Crashed, Fired, Outcome, Unknown
from adapter_doctor.findings import Hit
from adapter_doctor.rules import Rule

Known = Set[tuple[str, str, str]]
"""Hits of an earlier report: code, where, message."""
IN_BASELINE = "it is in the baseline"


@dataclass(frozen=True, slots=True)
class Suppressed:
    """Hits that do not count, and the user's reason."""

    rule: Rule[...]
    hits: tuple[Hit, ...]
    reason: str


def suppress(
    outcomes: Iterable[Outcome], reasons: Mapping[str, str], known: Known
) -> tuple[tuple[Outcome, ...], tuple[Suppressed, ...]]:
    """The outcomes that count, and what was taken out of them.

    ``reasons`` maps codes, their beginnings, or rules' names to why they are ignored. What an ignored rule could not
    examine is waived.
    """
    kept: list[Outcome] = []
    gone: list[Suppressed] = []
    for outcome in outcomes:
        rule = outcome.rule
        reason = next((why for entry, why in reasons.items() if rule.named(entry)), None)
        if reason is not None and isinstance(outcome, Unknown | Crashed):
            why = outcome.why if isinstance(outcome, Unknown) else f"the rule crashed with {outcome.error}"
            kept.append(Unknown(rule, f"{why}; ignored: {reason}", waived=True))
        elif not isinstance(outcome, Fired):
            kept.append(outcome)
        elif reason is not None:
            kept.append(Clear(rule))
            gone.append(Suppressed(rule, outcome.hits, reason))
        else:
            new = tuple(hit for hit in outcome.hits if (rule.code, hit.where or "", hit.message) not in known)
            old = tuple(hit for hit in outcome.hits if hit not in new)
            kept.append(Fired(rule, new) if new else Clear(rule))
            gone += [Suppressed(rule, old, IN_BASELINE)] if old else []
    return tuple(kept), tuple(gone)
