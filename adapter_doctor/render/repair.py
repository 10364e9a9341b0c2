"""A repair as text and as JSON: before, the plan, after."""

from __future__ import annotations

import io
import math
import textwrap
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from adapter_doctor.render.json import SCHEMA
from adapter_doctor.render.json import to_dict as report_to_dict
from adapter_doctor.render.visible import visible

if TYPE_CHECKING:
    from adapter_doctor.repair.outcome import Repair
    from adapter_doctor.report import Report

_TITLES = {
    "healthy": ("NOTHING TO MEND", "bold green"),
    "mended": ("MENDED", "bold green"),
    "planned": ("PLAN", "bold yellow"),
    "refused": ("NOT MENDED", "bold red"),
}


def render(repair: Repair, *, width: int = 80, colour: bool = False) -> str:
    """The repair as text, at most ``width`` columns wide, with ANSI colours if ``colour``."""
    out = io.StringIO()
    console = Console(
        file=out, width=max(width, 40), force_terminal=colour, no_color=not colour, highlight=False, markup=False, force_jupyter=False,
        emoji=False, color_system="standard" if colour else None, legacy_windows=False,
    )  # fmt: skip
    title, style = _TITLES[repair.state]
    console.print(Text(title, style))

    def say(text: str, indent: int = 2, style: str = "") -> None:
        room = max(20, console.width - indent)
        for line in textwrap.wrap(visible(text, 600), room, subsequent_indent="  ", break_on_hyphens=False):
            console.print(Text(" " * indent + line, style))

    say(f"before   {_landing(repair.before, repair.before.landed)}")
    for number, step in enumerate(repair.draft.steps if repair.draft else (), 1):
        say(f"{number}. {step.what}  ({step.code})", 4)
        if step.loss:
            say(f"lost: {step.loss}", 7, "yellow")
    if repair.after is not None:
        say(f"after    {_landing(repair.after, repair.after.landed)}")
    elif repair.landed is not None:
        say(f"after    {repair.landed['landed']} of {repair.landed['in_file']} tensors would land; nothing was written")
    if repair.output is not None:
        say(f"written  {repair.output}")
    if repair.state == "refused":
        say(f"nothing was written: {repair.why}", 2, "red")
    for obstacle in repair.draft.obstacles if repair.draft and repair.state != "refused" else ():
        say(f"left as it is: {obstacle}", 2, "yellow")
    for line in repair.advice:
        say(line)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines()) + "\n"


def _landing(report: Report, landed: Any) -> str:
    if landed is not None:
        counts = f"{landed['landed']} of {landed['in_file']} tensors landed"
        return counts if report.verdict == "compatible" else f"{counts}; {report.summary}"
    return report.summary


def _plain(value: Any) -> Any:
    """``value`` with NaN and infinity as text: a config may hold them, and JSON has none."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def to_dict(repair: Repair) -> dict[str, Any]:
    """JSON-ready data, schema 1. Fields may be added; none changes its meaning within a schema."""
    draft = repair.draft
    return {
        "schema": SCHEMA,
        "state": repair.state,
        "output": None if repair.output is None else str(repair.output),
        "why": repair.why,
        "plan": [
            {
                "mends": step.code, "what": step.what, "loses": step.loss, "renames": dict(step.renames),
                "makes": sorted(step.makes), "drops": sorted(step.drops), "settings": _plain(dict(step.settings)),
                "unset": sorted(step.unset),
            }
            for step in (draft.steps if draft else ())
        ],
        "obstacles": list(draft.obstacles) if draft else [],
        "advice": list(repair.advice),
        "would_land": None if repair.landed is None else dict(repair.landed),
        "before": report_to_dict(repair.before),
        "after": None if repair.after is None else report_to_dict(repair.after),
    }  # fmt: skip
