"""Every format shows the same five reports as it did before, and each is what its own readers expect."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import five_reports
import jsonschema
import pytest
from junitparser import JUnitXml

from adapter_doctor.cli.output import FORMATS
from adapter_doctor.report import Report

GOLDEN = Path(__file__).parent / "golden"
RENDERERS = Path(__file__).parent.parent / "adapter_doctor" / "render"
SCHEMA = Path(__file__).parent / "data" / "sarif-schema-2.1.0.json"
ENDINGS = {"text": "txt", "json": "json", "sarif": "sarif", "github": "github", "junit": "xml", "markdown": "md", "html": "html"}  # fmt: skip
NAMES = sorted(five_reports.CHANGES)


def render(form: str, report: Report) -> str:
    text = import_module(f"adapter_doctor.render.{form}").render(report)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_report_looks_as_it_did(
    name: str, form: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pages are edited more often than formats are.
    monkeypatch.setattr(f"adapter_doctor.render.{form}.page", lambda rule: f"(page of {rule.code})", raising=False)
    path = GOLDEN / f"{name}.{ENDINGS[form]}"
    text = render(form, five_reports.report(name))
    if request.config.getoption("--update-golden"):
        path.write_text(text, encoding="utf-8", newline="\n")

    assert path.read_text("utf-8") == text, "if the change is meant: pytest --update-golden"


def test_no_golden_file_is_left_over() -> None:
    wanted = {f"{name}.{ENDINGS[form]}" for name in NAMES for form in FORMATS}

    assert {path.name for path in GOLDEN.iterdir()} == wanted


def test_five_reports_are_what_they_are_meant_to_be() -> None:
    verdicts = {name: five_reports.report(name).verdict for name in NAMES}

    assert verdicts == {
        "sound": "compatible", "wrong-base": "incompatible", "gated-base": "incompatible",
        "crashed-rule": "undetermined", "hostile-strings": "incompatible",
    }  # fmt: skip
    assert five_reports.report("hostile-strings").suppressed
    assert five_reports.report("crashed-rule").diagnosis.crashed


@pytest.mark.parametrize("form", FORMATS)
def test_no_escape_or_mark_of_a_stranger_is_left(form: str) -> None:
    text = render(form, five_reports.report("hostile-strings"))

    assert all(sign.isprintable() or sign == "\n" for sign in text)


# ------------------------------------------------------------------------------------------------------------ SARIF


@pytest.fixture(scope="module")
def sarif() -> Any:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    return jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("name", NAMES)
def test_sarif_follows_its_schema(name: str, sarif: Any) -> None:
    log = json.loads(render("sarif", five_reports.report(name)))

    assert [error.message for error in sarif.iter_errors(log)] == []


def test_schema_refuses_what_is_no_sarif(sarif: Any) -> None:
    log = json.loads(render("sarif", five_reports.report("wrong-base")))
    log["runs"][0]["results"][0]["level"] = "fatal"

    assert [error.message for error in sarif.iter_errors(log)] != []


@pytest.mark.parametrize("name", NAMES)
def test_sarif_tells_all_findings_and_every_rule_that_it_names(name: str) -> None:
    report = five_reports.report(name)
    (run,) = json.loads(render("sarif", report))["runs"]
    known = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    open_results = [one for one in run["results"] if "suppressions" not in one]
    notices = run["invocations"][0]["toolExecutionNotifications"]

    assert [one["ruleId"] for one in open_results] == [f.rule.code for f in report.findings for _ in f.hits]
    assert {one["ruleId"] for one in run["results"]} | {one["associatedRule"]["id"] for one in notices} == known
    assert len(notices) == len(report.diagnosis.unknown) + len(report.diagnosis.crashed)
    assert all(rule["help"]["markdown"].count("###") == 3 for rule in run["tool"]["driver"]["rules"])
    assert run["invocations"][0]["exitCode"] == report.exit_code


def test_sarif_points_at_the_file_that_is_meant() -> None:
    (run,) = json.loads(render("sarif", five_reports.report("hostile-strings")))["runs"]
    places = {one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in run["results"]}

    assert {place.rpartition("/")[2] for place in places} >= {"adapter_model.safetensors", "adapter_config.json"}
    assert all(place.isascii() and "<" not in place for place in places)


def test_sarif_points_at_folders_and_keeps_its_fingerprints() -> None:
    first, second = (json.loads(render("sarif", five_reports.report("wrong-base")))["runs"][0] for _ in range(2))
    places = {one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in first["results"]}
    marks = [one["partialFingerprints"] for one in first["results"]]

    assert places == {"example/tiny-llama", "example/tiny-llama-lora"}
    assert marks == [one["partialFingerprints"] for one in second["results"]]
    assert len({str(mark) for mark in marks}) == len(marks)


# ------------------------------------------------------------------------------------------------------------ JUnit


@pytest.mark.parametrize("name", NAMES)
def test_junit_is_read_by_a_parser_of_its_own(name: str) -> None:
    report = five_reports.report(name)
    (suite,) = JUnitXml.fromstring(render("junit", report).encode())
    cases = list(suite)
    errors = [one for one in report.findings if one.rule.severity == 3]

    assert suite.tests == len(cases)
    assert suite.failures == len(errors) + (report.verdict == "incompatible")
    assert suite.errors == len(report.diagnosis.crashed) + (report.verdict == "undetermined")
    assert cases[0].name == "verdict"
    assert cases[0].is_passed == (report.verdict == "compatible")


# ------------------------------------------------------------------------------------------------- GitHub, Markdown


@pytest.mark.parametrize("name", NAMES)
def test_every_line_for_github_is_a_command_of_ours(name: str) -> None:
    lines = render("github", five_reports.report(name)).splitlines()
    command = re.compile(r"::(error|warning|notice) ((file|title)=[^:,]*,?)+::.*")

    assert [line for line in lines if not command.fullmatch(line)] == []


def test_markup_of_a_stranger_stands_in_code_in_markdown() -> None:
    text = render("markdown", five_reports.report("hostile-strings"))
    bare = re.sub(r"(?s)^(`{3,})text\n.*?\n\1$", "", text, flags=re.M)
    bare = re.sub(r"(?<!`)(`+)(?!`)(?s:.*?)(?<!`)\1(?!`)", "", bare)

    assert "script" in text
    assert not re.search(r"script|onerror|@octocat|example\.com", bare)


def test_formats_import_nothing_that_they_do_not_need() -> None:
    modules = [f"adapter_doctor.render.{path.stem}" for path in RENDERERS.glob("[a-z]*.py")]
    code = f"import sys, {', '.join(modules)}; print({{'torch', 'transformers', 'peft'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
