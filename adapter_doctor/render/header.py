"""What was examined, how far and with what: the rows at the head of a report, in every format for people."""

from __future__ import annotations

from typing import Any

from adapter_doctor.render.visible import visible
from adapter_doctor.report import Report

_EXTENT = {
    "static": "from files alone; nothing was loaded",
    "loaded": "the adapter was loaded through PEFT",
    "run": "the adapter was loaded and run",
    "text": "the text alone; neither base nor adapter was looked at",
}


def rows(report: Report) -> list[tuple[str, str]]:
    """Names and values; a stranger's text in them is made visible."""
    found = [
        ("adapter", _describe(report.adapter, ("peft_type", "rank", "tensors", "parameters"))),
        ("base", _describe(report.base, ("model_type", "class", "quantization"))),
        ("examined", _EXTENT[report.examined]),
    ]
    if report.text is not None:
        found = [
            ("text", visible(str(report.text["reference"]), 300)),
            *(found[2:] if report.examined == "text" else found),
        ]
    versions = [f"{name} {version}" for name, version in report.environment.items() if version and name != "python"]
    return [*found, ("with", ", ".join(versions[:3]))] if versions else found


def _describe(part: Any, names: tuple[str, ...]) -> str:
    details = []
    for name in names:
        value = part.get(name)
        if value not in (None, ""):
            shown = f"{value:,}" if isinstance(value, int) else str(value)
            details.append(f"{name} {shown}" if name in ("rank", "quantization") else
                           f"{shown} {name}" if name in ("tensors", "parameters") else shown)  # fmt: skip
    revision = f"@{part['revision'][:12]}" if part.get("revision") else ""
    reference = f"{part.get('reference', '?')}{revision}"
    return visible(f"{reference}  ({', '.join(details)})" if details else reference, 300)
