"""Where in a tree of files a hit lies, for the formats that point at files."""

from __future__ import annotations

from adapter_doctor.findings import Hit
from adapter_doctor.report import Report


def location(report: Report, hit: Hit) -> str:
    """The file that a hit speaks of: a path as the user wrote it, or an address with ``hf://`` for a repository."""
    where = hit.where or ""
    if report.text is not None and where.startswith("line "):
        return str(report.text["reference"])
    side = report.base if where == "config.json" or where == report.base.get("reference") else report.adapter
    reference = str(side.get("reference") or "")
    if side.get("revision"):
        reference = f"hf://{reference.removeprefix('hf://')}"
    if where in (reference, side.get("reference"), ""):
        return reference
    return f"{reference.rstrip('/')}/{where}" if reference else where
