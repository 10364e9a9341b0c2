"""The report as Markdown for a pull request or a model card: what a stranger chose stands in code, where it is inert."""

from __future__ import annotations

import re

from adapter_doctor.diagnosis import Finding
from adapter_doctor.render.header import rows
from adapter_doctor.render.serving import lines as engines
from adapter_doctor.render.visible import visible
from adapter_doctor.report import Report

_SIGNS = {"compatible": "✅", "incompatible": "❌", "undetermined": "❔"}


def render(report: Report) -> str:
    """The report as GitHub-flavoured Markdown: verdict, cause and cure, then the rest folded."""
    title = f"## {_SIGNS[report.verdict]} {report.verdict}"
    if report.verdict == "compatible" and report.landed:
        title += f": {report.landed['landed']} of {report.landed['in_file']} tensors landed"
    lines = [title, "", "| | |", "| --- | --- |"]
    lines += [*(f"| {name} | {code(value, table=True)} |" for name, value in rows(report)), ""]
    cause = report.cause
    if cause is not None:
        lines += [f"### {cause.rule.code} {cause.rule.name}", "", *_block(cause), ""]
    elif report.verdict == "undetermined":
        lines += [f"Not examined: {code(report.open_questions[0][1])}", ""]
    rest = [one for one in report.findings if one is not cause]
    if rest:
        said = "finding" if len(rest) == 1 else "findings"
        lines += [f"<details><summary>{len(rest)} {'more ' if cause else ''}{said}</summary>", ""]
        for one in rest:
            after = f" (follows from {one.consequence_of})" if one.consequence_of else ""
            lines.append(f"- {one.rule.severity.label} {one.rule.code} {one.rule.name}{after}: ")
            lines[-1] += "; ".join(code(hit.message) for hit in one.hits[:5])
        lines += ["", "</details>", ""]
    if report.serving:
        lines += ["### In serving engines", "", *_fenced("\n".join(line for line, _ in engines(report.serving))), ""]
    lines += [
        f"- ignored {one.rule.code} {one.rule.name} ({len(one.hits)}): {code(one.reason)}" for one in report.suppressed
    ]
    grouped: dict[str, list[str]] = {}
    for unknown in report.diagnosis.unknown:
        grouped.setdefault(unknown.why, []).append(unknown.rule.code)
    lines += [f"- not examined ({', '.join(codes)}): {code(why)}" for why, codes in sorted(grouped.items())]
    lines += [
        f"- a fault of adapter-doctor: {one.rule.code} crashed with {code(one.error)}"
        for one in report.diagnosis.crashed
    ]
    return "\n".join(lines).rstrip() + "\n"


def _block(finding: Finding) -> list[str]:
    text = "\n".join(
        line
        for hit in finding.hits[:5]
        for line in (f"{hit.where}: {hit.message}" if hit.where else hit.message, *(f"    {x}" for x in hit.examples))
    )
    return _fenced(visible(f"{text}\n\nfix: {finding.hits[0].fix or finding.rule.fix}"))


def _fenced(text: str) -> list[str]:
    fence = "`" * max(3, _longest_run(text) + 1)
    return [f"{fence}text", text, fence]


def code(text: str, *, table: bool = False) -> str:
    """``text`` as a code span, on one line; in a table the column sign is escaped, as GitHub asks for."""
    shown = " ".join(visible(text, 500).split())
    if table:
        shown = shown.replace("|", "\\|")
    fence = "`" * (_longest_run(shown) + 1)
    space = " " if shown.startswith("`") or shown.endswith("`") or not shown else ""
    return f"{fence}{space}{shown}{space}{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
