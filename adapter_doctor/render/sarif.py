"""The report as SARIF 2.1.0, for code scanning: a result a hit, a rule's page as its help."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any
from urllib.parse import quote

from adapter_doctor.findings import Hit, Severity
from adapter_doctor.render.location import location
from adapter_doctor.render.visible import visible
from adapter_doctor.report import Report
from adapter_doctor.rules import Rule
from adapter_doctor.rules.pages import page

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}


def render(report: Report) -> str:
    """The report as a SARIF log with one run, as indented JSON text."""
    from adapter_doctor import __version__

    diagnosis = report.diagnosis
    told = (diagnosis.findings, report.suppressed, diagnosis.unknown, diagnosis.crashed)
    named = [one.rule for part in told for one in part]
    rules = sorted({one.code: one for one in named}.values(), key=lambda one: one.code)
    results = [_result(report, one.rule, hit) for one in diagnosis.findings for hit in one.hits]
    for one in report.suppressed:
        why = [{"kind": "external", "justification": visible(one.reason)}]
        results += [{**_result(report, one.rule, hit), "suppressions": why} for hit in one.hits]
    notifications = [
        _notification(one.rule, "note" if one.waived else "warning", f"not examined: {one.why}")
        for one in diagnosis.unknown
    ] + [_notification(one.rule, "error", f"the rule crashed: {one.error}") for one in diagnosis.crashed]
    run = {
        "tool": {"driver": {"name": "adapter-doctor", "version": __version__, "rules": [_rule(one) for one in rules]}},
        "invocations": [
            {
                "executionSuccessful": not diagnosis.crashed,
                "exitCode": report.exit_code,
                "exitCodeDescription": report.verdict,
                "toolExecutionNotifications": notifications,
            }
        ],
        "results": results,
        "columnKind": "unicodeCodePoints",
    }
    log = {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2) + "\n"


def _rule(rule: Rule[...]) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.title},
        "help": {"text": rule.fix, "markdown": page(rule)},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(report: Report, rule: Rule[...], hit: Hit) -> dict[str, Any]:
    place = location(report, hit)
    parts = [hit.message, *hit.examples, f"fix: {hit.fix or rule.fix}"]
    mark = hashlib.sha256("\0".join((rule.code, place, hit.message)).encode("utf-8", "surrogatepass")).hexdigest()
    physical = {
        "artifactLocation": {"uri": quote(place.encode("utf-8", "surrogateescape"), safe="/:@")},
        "region": {"startLine": 1},
    }
    return {
        "ruleId": rule.code,
        "level": _LEVELS[rule.severity],
        "message": {"text": "\n".join(_plain(part) for part in parts)},
        "locations": [{"physicalLocation": physical}],
        "partialFingerprints": {"adapterDoctor/v1": mark},
        "occurrenceCount": max(1, hit.count),
    }


def _notification(rule: Rule[...], level: str, text: str) -> dict[str, Any]:
    return {"level": level, "message": {"text": _plain(text)}, "associatedRule": {"id": rule.code}}


def _plain(text: str) -> str:
    """Text that a SARIF viewer takes for a link or a placeholder nowhere."""
    return re.sub(r"\{(\d+)\}", r"{{\1}}", re.sub(r"\[(?=[^\]\n]*\]\()", r"\\[", visible(text)))
