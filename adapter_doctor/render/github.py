"""The report as workflow commands of GitHub Actions, which it shows as annotations."""

from __future__ import annotations

from adapter_doctor.findings import Severity
from adapter_doctor.render.location import location
from adapter_doctor.render.visible import visible
from adapter_doctor.report import Report

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}
_VERDICTS = {"compatible": "notice", "incompatible": "error", "undetermined": "error"}


def render(report: Report) -> str:
    """One command for the verdict and one for each hit that follows from no other finding."""
    reference = (report.text or report.adapter).get("reference")
    lines = [_command(_VERDICTS[report.verdict], f"{reference}: {report.summary}", title="adapter-doctor")]
    for finding in report.findings:
        if finding.consequence_of is None:
            for hit in finding.hits:
                text = "\n".join((hit.message, *hit.examples, f"fix: {hit.fix or finding.rule.fix}"))
                title = f"{finding.rule.code} {finding.rule.name}"
                lines.append(_command(_COMMANDS[finding.rule.severity], text, file=location(report, hit), title=title))
    for one in report.diagnosis.crashed:
        lines.append(_command("warning", f"{one.rule.code} crashed: {one.error}", title="a fault of adapter-doctor"))
    return "\n".join(lines) + "\n"


def _command(name: str, text: str, **properties: str) -> str:
    listed = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {listed}::{_data(text)}"


def _data(text: str) -> str:
    return visible(text).replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
