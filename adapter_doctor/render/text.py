"""The report as text for a terminal: verdict first, one cause and its cure, then the rest in a line each."""

from __future__ import annotations

import io

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from adapter_doctor.diagnosis import Finding
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.render.header import rows
from adapter_doctor.render.serving import lines
from adapter_doctor.render.visible import visible
from adapter_doctor.report import Report

_COLOURS = {"compatible": "bold green", "incompatible": "bold red", "undetermined": "bold yellow"}
_MARKS = {Severity.ERROR: ("✗", "red"), Severity.WARNING: ("!", "yellow"), Severity.NOTE: ("·", "dim")}


def render(report: Report, *, verbose: bool = False, width: int = 80, colour: bool = False) -> str:
    """The report as text, at most ``width`` columns wide, with ANSI colours if ``colour``."""
    out = io.StringIO()
    console = Console(
        file=out, width=max(width, 40), force_terminal=colour, no_color=not colour, highlight=False, markup=False, force_jupyter=False,
        emoji=False, color_system="standard" if colour else None, legacy_windows=False,
    )  # fmt: skip
    _head(console, report)
    cause, shown = report.cause, _in_full if verbose else _in_a_line
    followers = [one for one in report.findings if cause is not None and one.consequence_of == cause.rule.code]
    if cause is not None:
        _in_full(console, cause)
        if followers:
            console.print(Text("  what follows from it:", "dim"))
            for finding in followers:
                shown(console, finding)
        console.print()
    rest = [one for one in report.findings if one is not cause and one not in followers]
    if rest:
        console.print(Text("  also found:" if cause is not None else "  found:", "dim"))
        for finding in rest:
            shown(console, finding)
        console.print()
    if rest and not verbose:
        _block(console, "--verbose shows all of it in full, each with its cure", 2, style="dim")
    _serving(console, report)
    _unexamined(console, report, verbose)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines()) + "\n"


def _head(console: Console, report: Report) -> None:
    title = Text(report.verdict.upper(), _COLOURS[report.verdict])
    if report.verdict == "compatible" and report.landed:
        title.append(f"  {report.landed['landed']} of {report.landed['in_file']} tensors landed", "not bold")
    console.print(title)
    for name, value in rows(report):
        _block(console, f"{name:<9} {value}", 2, hanging=10)
    for note in report.notes:
        _block(console, visible(note), 2)
    console.print()


def _in_full(console: Console, finding: Finding) -> None:
    mark, colour = _MARKS[finding.rule.severity]
    console.print(Text.assemble((f"{mark} {finding.rule.code} {finding.rule.name}", f"bold {colour}")))
    for hit in finding.hits[:5]:
        where = f"{hit.where}: " if hit.where else ""
        _block(console, visible(f"{where}{hit.message}"), 4)
        for example in hit.examples:
            _block(console, visible(example, 300), 8, style="dim")
    if len(finding.hits) > 5:
        _block(console, f"… and {len(finding.hits) - 5} more", 4)
    _block(console, "fix: " + visible(_fix(finding, finding.hits[0])), 4, hanging=5, style="green")


def _fix(finding: Finding, hit: Hit) -> str:
    return hit.fix or finding.rule.fix


def _in_a_line(console: Console, finding: Finding) -> None:
    mark, colour = _MARKS[finding.rule.severity]
    text = visible(finding.hits[0].message.replace("\n", " "), 200)
    line = Text.assemble(("    " + mark, colour), f" {finding.rule.code} {finding.rule.name}: {text}")
    line.truncate(console.width, overflow="ellipsis")
    console.print(line)


def _serving(console: Console, report: Report) -> None:
    if not report.serving:
        return
    console.print(Text("in serving engines:", "dim"))
    for line, pasted in lines(report.serving):
        if pasted:  # a command that is broken over lines cannot be pasted
            console.print(Text(f"    {line}"), soft_wrap=True)
        else:
            _block(console, line, 2, 4)
    console.print()


def _unexamined(console: Console, report: Report, verbose: bool) -> None:
    grouped: dict[tuple[bool, str], list[str]] = {}
    for one in report.diagnosis.unknown:
        grouped.setdefault((one.waived, one.why), []).append(one.rule.code)
    if report.verdict != "incompatible" or verbose:
        for (waived, why), codes in sorted(grouped.items()):
            listed = (
                ", ".join(codes) if verbose or len(codes) <= 4 else f"{', '.join(codes[:3])} and {len(codes) - 3} more"
            )
            _block(console, f"{'left out' if waived else 'not examined'}: {visible(why, 300)} ({listed})", 2, 2, "dim")
    for gone in report.suppressed:
        said = "finding" if len(gone.hits) == 1 else "findings"
        _block(
            console,
            f"ignored: {gone.rule.code} {gone.rule.name}, {len(gone.hits)} {said}: {visible(gone.reason)}",
            2,
            2,
            "dim",
        )
    for crash in report.diagnosis.crashed:
        _block(console, f"a fault of adapter-doctor: {crash.rule.code} crashed with {visible(crash.error, 200)}", 2, 2)


def _block(console: Console, text: str, indent: int, hanging: int = 0, style: str = "") -> None:
    """Text wrapped to the console's width behind an indent, further lines ``hanging`` columns deeper."""
    wide = max(20, console.width - indent - hanging)
    first, *more = Text(text, style).wrap(console, wide) or [Text("")]
    if hanging and more:
        rest = Text(text[len(first.plain) :].lstrip(), style).wrap(console, wide)
        more = list(rest)
    console.print(Padding(first, (0, 0, 0, indent)))
    for line in more:
        console.print(Padding(line, (0, 0, 0, indent + hanging)))
