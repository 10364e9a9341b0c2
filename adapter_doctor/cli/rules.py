"""`adapter-doctor rules`: the list of rules."""

from __future__ import annotations

from adapter_doctor.cli.output import say
from adapter_doctor.rules import all_rules


def rules() -> None:
    """List every rule: code, severity, name and what it finds."""
    lines = [f"{rule.code}  {rule.severity.label:<7}  {rule.name:<28} {rule.title}" for rule in all_rules()]
    say("\n".join(lines) + "\n")
