"""A rule's page, from its docstring; the README of this folder is all of them, each with its first sick case."""

from __future__ import annotations

from adapter_doctor.rules import Rule


def page(rule: Rule[...], example: str = "") -> str:
    """Markdown: title, the line of facts, the docstring's sections, and an example message where one is given."""
    reads = ", ".join(dict.fromkeys(kind.__name__ for _, kind in rule.reads))
    lines = [
        f"## {rule.code} {rule.name}",
        "",
        rule.title,
        "",
        f"Severity: {rule.severity.label}. Since {rule.since}. Reads: {reads}."
        + (" `adapter-doctor fix` can mend it." if rule.repairable else ""),
        "",
        rule.body.replace("## ", "### "),
    ]
    if example:
        lines += ["", "### Example", "", example]
    return "\n".join(lines) + "\n"
