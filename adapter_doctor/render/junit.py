"""The report as JUnit XML: a test case for the verdict, and one for each rule that did not come out clear."""

from __future__ import annotations

from xml.etree import ElementTree as Xml

from adapter_doctor.diagnosis import Finding
from adapter_doctor.findings import Severity
from adapter_doctor.render.visible import visible
from adapter_doctor.report import Report


def render(report: Report) -> str:
    """The report as XML. Errors are failures, warnings and notes pass with a word, what was not examined is skipped."""
    suite = Xml.Element("testsuite", name="adapter-doctor")
    verdict = _case(suite, report, "verdict")
    if report.verdict == "incompatible":
        _outcome(verdict, "failure", "incompatible", report.summary)
    elif report.verdict == "undetermined":
        _outcome(verdict, "error", "undetermined", report.summary)
    for finding in report.findings:
        case = _case(suite, report, f"{finding.rule.code} {finding.rule.name}")
        if finding.rule.severity is Severity.ERROR:
            _outcome(case, "failure", finding.rule.name, finding.hits[0].message, _told(finding))
        else:
            Xml.SubElement(case, "system-out").text = f"{finding.rule.severity.label}: {_told(finding)}"
    for suppressed in report.suppressed:
        case = _case(suite, report, f"{suppressed.rule.code} {suppressed.rule.name}")
        _outcome(case, "skipped", "", f"ignored: {suppressed.reason}")
    for unknown in report.diagnosis.unknown:
        case = _case(suite, report, f"{unknown.rule.code} {unknown.rule.name}")
        _outcome(case, "skipped", "", f"not examined: {unknown.why}")
    for crashed in report.diagnosis.crashed:
        case = _case(suite, report, f"{crashed.rule.code} {crashed.rule.name}")
        _outcome(case, "error", "crashed", f"a fault of adapter-doctor: {crashed.error}")
    cases = list(suite)
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("tests", str(len(cases)))
    whole = Xml.Element("testsuites")
    whole.append(suite)
    Xml.indent(whole)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + Xml.tostring(whole, encoding="unicode") + "\n"


def _case(suite: Xml.Element, report: Report, name: str) -> Xml.Element:
    place = visible(str(report.adapter.get("reference") or "adapter"), 300)
    return Xml.SubElement(suite, "testcase", classname=place, name=name)


def _outcome(case: Xml.Element, tag: str, kind: str, message: str, text: str = "") -> None:
    attributes = {"message": visible(message, 500)} | ({"type": kind} if kind else {})
    Xml.SubElement(case, tag, attributes).text = text or None


def _told(finding: Finding) -> str:
    lines: list[str] = []
    for hit in finding.hits:
        lines += [f"{hit.where}: {hit.message}" if hit.where else hit.message, *(f"    {one}" for one in hit.examples)]
    lines.append(f"fix: {finding.hits[0].fix or finding.rule.fix}")
    if finding.consequence_of:
        lines.append(f"follows from {finding.consequence_of}")
    return visible("\n".join(lines))
