"""The report as one HTML file that needs nothing else: verdict, cure, a picture of the adapter on its base, all findings."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from adapter_doctor.diagnosis import Finding
from adapter_doctor.render.drawing import Drawing, drawing
from adapter_doctor.render.header import rows
from adapter_doctor.render.serving import lines
from adapter_doctor.render.visible import visible
from adapter_doctor.report import Report
from adapter_doctor.rules import Rule
from adapter_doctor.rules.pages import page

PARTS = Path(__file__).parent / "page"
MOST_HITS = 50
"""Hits of one finding that are shown."""


def render(report: Report) -> str:
    """The report as a page of its own."""
    script = _read("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = _template("page.html").render(**_values(report), script=script, digest=digest)
    return str(text)


def fragment(report: Report) -> str:
    """The report as part of another page, such as a notebook's cell: without script, and with styles of its own only."""
    return str(_template("fragment.html").render(**_values(report)))


def _values(report: Report) -> dict[str, Any]:
    from adapter_doctor import __version__

    unexamined: dict[tuple[bool, str], list[str]] = {}
    for one in report.diagnosis.unknown:
        unexamined.setdefault((one.waived, one.why), []).append(one.rule.code)
    shown: Drawing = drawing(report.picture)
    files = report.adapter.get("files") or {}
    return {
        "report": report,
        "version": __version__,
        "rows": rows(report),
        "cause": report.cause,
        "rest": [one for one in report.findings if one is not report.cause],
        "engines": [line for line, _ in lines(report.serving)],
        "unexamined": sorted(unexamined.items()),
        "drawing": shown,
        "files": sorted(files.items()),
        "style": _read("style.css"),
        "visible": visible,
        "fix": _fix,
        "page_of": _page,
        "most_hits": MOST_HITS,
    }


def _fix(finding: Finding) -> str:
    return finding.hits[0].fix or finding.rule.fix


def _page(rule: Rule[...]) -> Any:
    """A rule's page as HTML, without its title. The text is ours; HTML in it would be shown as it is written."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    text = page(rule).partition("\n")[2]
    return Markup(MarkdownIt("commonmark", {"html": False}).render(text))  # noqa: S704 - escaped by the renderer


@cache
def _read(name: str) -> str:
    return (PARTS / name).read_text("utf-8")


@cache
def _template(name: str) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(PARTS), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name)
