"""`adapter-doctor rules`: the list of rules."""

from __future__ import annotations

import typer

from adapter_doctor.rules import all_rules


def rules() -> None:
    """List every rule: code, severity, name and what it finds."""
    for rule in all_rules():
        typer.echo(f"{rule.code}  {rule.severity.label:<7}  {rule.name:<28} {rule.title}")
