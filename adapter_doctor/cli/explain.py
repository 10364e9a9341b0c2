"""`adapter-doctor explain CODE`: a rule's page."""

from __future__ import annotations

from typing import Annotated

import typer

from adapter_doctor.cli.output import say, usage_error
from adapter_doctor.errors import DoctorError
from adapter_doctor.rules import all_rules
from adapter_doctor.rules.pages import page


def explain(
    code: Annotated[str, typer.Argument(help="A rule's code or name, such as AD211 or rank-mismatch.")],
) -> None:
    """Show a rule's page: what it finds, why that matters, common causes and the fix."""
    for rule in all_rules():
        if code.upper() == rule.code or code.lower() == rule.name:
            say(page(rule))
            return
    import difflib

    known = [rule.code for rule in all_rules()] + [rule.name for rule in all_rules()]
    near = difflib.get_close_matches(code, known, 1, 0.5)
    hint = f"adapter-doctor explain {near[0]}" if near else "adapter-doctor rules"
    usage_error(DoctorError(f"no rule is called {code!r}", hint))
