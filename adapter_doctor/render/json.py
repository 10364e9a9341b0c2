"""The report as JSON, schema 1: written field by field, so that inner types can change without breaking readers."""

from __future__ import annotations

import json
from typing import Any

from adapter_doctor.diagnosis import Finding
from adapter_doctor.facts import Outlook
from adapter_doctor.report import Report

SCHEMA = 1


def to_dict(report: Report) -> dict[str, Any]:
    """JSON-ready data. Fields may be added; none changes its meaning within a schema."""
    from adapter_doctor import __version__

    cause = report.cause
    return {
        "schema": SCHEMA,
        "tool": {"name": "adapter-doctor", "version": __version__},
        "verdict": report.verdict,
        "examined": report.examined,
        "base": dict(report.base),
        "adapter": dict(report.adapter),
        "environment": dict(report.environment),
        "landed": None if report.landed is None else dict(report.landed),
        "cause": None if cause is None else {"code": cause.rule.code, "name": cause.rule.name},
        "findings": [entry for finding in report.findings for entry in _finding(finding)],
        "unknown": [
            {"code": one.rule.code, "name": one.rule.name, "why": one.why, "waived": one.waived}
            for one in report.diagnosis.unknown
        ],
        "crashed": [
            {"code": one.rule.code, "name": one.rule.name, "error": one.error} for one in report.diagnosis.crashed
        ],
        "suppressed": [
            {
                "code": one.rule.code,
                "name": one.rule.name,
                "reason": one.reason,
                "hits": [{"code": one.rule.code, "message": hit.message, "where": hit.where} for hit in one.hits],
            }
            for one in report.suppressed
        ],
        "notes": list(report.notes),
        "serving": [_outlook(one) for one in report.serving],
        **({} if report.text is None else {"text": dict(report.text)}),
    }


def _finding(finding: Finding) -> list[dict[str, Any]]:
    rule = finding.rule
    return [
        {
            "code": rule.code,
            "name": rule.name,
            "severity": rule.severity.label,
            "message": hit.message,
            "where": hit.where,
            "count": hit.count,
            "examples": list(hit.examples),
            "fix": hit.fix or rule.fix,
            "repairable": rule.repairable if hit.repairable is None else hit.repairable,
            "consequence_of": finding.consequence_of,
        }
        for hit in finding.hits
    ]


def _outlook(outlook: Outlook) -> dict[str, Any]:
    return {
        "engine": outlook.engine,
        "version": outlook.version,
        "required": outlook.required,
        "adapter": outlook.adapter or None,
        "outcome": outlook.outcome,
        "dropped": outlook.dropped,
        "effects": [
            {
                "trait": one.trait, "outcome": one.outcome, "why": one.why, "message": one.message,
                "dropped": one.dropped, "factors": None if one.factors is None else list(one.factors),
                "fix": one.fix, "evidence": one.evidence, "source": one.source,
            }
            for one in outlook.effects
        ],
        "commands": list(outlook.commands),
        "notes": list(outlook.notes),
    }  # fmt: skip


def render(report: Report) -> str:
    """The report as indented JSON text. Characters beyond ASCII are escaped, so no terminal is moved by it."""
    return json.dumps(to_dict(report), indent=2, allow_nan=False, default=str) + "\n"
