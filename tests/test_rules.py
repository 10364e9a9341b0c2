"""Every rule against its cases: it fires on the sick ones with these messages, and keeps quiet on the well ones."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Mapping
from graphlib import TopologicalSorter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from patient import patient

from adapter_doctor.diagnosis import diagnose
from adapter_doctor.engine import Clear, Crashed, Fired, Outcome, Unknown, judge
from adapter_doctor.facts import AdapterTensors, Facts, LoadOutcome, Missing
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import OWN_COMMANDS, Rule, all_rules, rules_of

CASES = Path(__file__).parent / "rules"
RULES = {rule.name: rule for rule in all_rules()}
FAMILIES = {
    "0": "reach", "1": "config", "2": "tensors", "3": "fit", "4": "environment", "5": "load", "6": "upload",
    "7": "serving", "8": "resume", "9": "explain",
}  # fmt: skip
KINDS = ("sick", "well", "unsure")
NOT_CHANGES = ("name", "says", "also", "because")

Case = Mapping[str, Any]


def cases(kind: str) -> list[Any]:
    """Rule and case, for every case of this kind."""
    return [
        pytest.param(RULES[path.stem], case, id=f"{path.stem}: {case['name']}")
        for path in sorted(CASES.glob("*.toml"))
        if path.stem in RULES
        for case in tomllib.loads(path.read_text("utf-8")).get(kind, ())
    ]


def facts_of(case: Case) -> Facts:
    return patient({name: change for name, change in case.items() if name not in NOT_CHANGES})


def outcome_of(rule: Rule[...], facts: Facts) -> Outcome:
    (outcome,) = judge([rule], facts)
    return outcome


# ------------------------------------------------------------------------------------------------------ the cases


@pytest.mark.parametrize(("rule", "case"), cases("sick"))
def test_rule_fires_on_a_sick_case_with_exactly_these_messages(rule: Rule[...], case: Case) -> None:
    outcome = outcome_of(rule, facts_of(case))

    assert isinstance(outcome, Fired), outcome
    assert [hit.message for hit in outcome.hits] == case["says"]


@pytest.mark.parametrize(("rule", "case"), cases("sick"))
def test_no_other_error_stands_beside_the_one_that_is_meant(rule: Rule[...], case: Case) -> None:
    outcomes = judge(rules_of(OWN_COMMANDS.get(rule.code[2], "check")), facts_of(case))
    diagnosis = diagnose(outcomes)
    alone = {
        one.rule.code
        for one in diagnosis.findings
        if one.rule.severity is Severity.ERROR and one.consequence_of is None
    }

    assert [outcome for outcome in outcomes if isinstance(outcome, Crashed)] == []
    assert sorted(alone - {rule.code}) == sorted(case.get("also", ()))
    assert rule.severity is not Severity.ERROR or diagnosis.cause is not None


@pytest.mark.parametrize(("rule", "case"), cases("well"))
def test_rule_keeps_quiet_on_a_well_case(rule: Rule[...], case: Case) -> None:
    outcomes = judge(all_rules(), facts_of(case))

    assert [outcome for outcome in outcomes if outcome.rule is rule] == [Clear(rule)]
    assert [outcome for outcome in outcomes if isinstance(outcome, Crashed)] == []


@pytest.mark.parametrize(("rule", "case"), cases("unsure"))
def test_rule_says_why_it_cannot_tell(rule: Rule[...], case: Case) -> None:
    assert outcome_of(rule, facts_of(case)) == Unknown(rule, case["because"])


def test_patient_is_what_it_is_meant_to_be() -> None:
    facts = patient()
    tensors, outcome = facts.get(AdapterTensors), facts.get(LoadOutcome)

    assert isinstance(tensors, AdapterTensors)
    assert isinstance(outcome, LoadOutcome)
    assert (len(tensors), outcome.landed) == (32, 32)
    module = "base_model.model.model.layers.3.self_attn.k_proj"
    assert tensors.shapes[f"{module}.lora_A.weight"] == (8, 64)
    assert tensors.shapes[f"{module}.lora_B.weight"] == (32, 8)


@pytest.mark.parametrize("changes", [
    {"confg": {"r": 4}}, {"tensors": {"drop": "no such name"}}, {"trained": {"r": 4}}, {"remove": ["confg.r"]},
    {"modules": {"shapes": {}}}, {"missing": ["BaseModule"]},
])  # fmt: skip
def test_change_that_changes_nothing_is_refused(changes: Case) -> None:
    with pytest.raises(ValueError, match=r"no such|nothing matches|no fact"):
        patient(changes)


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.name)
def test_rule_keeps_quiet_on_the_healthy_patient(rule: Rule[...]) -> None:
    assert outcome_of(rule, patient()) == Clear(rule)


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        pytest.param(rule, kind, id=f"{rule.name} without {kind.__name__}")
        for rule in all_rules()
        for parameter, kind in rule.reads
        if parameter not in rule.optional
    ],
)
def test_missing_fact_makes_the_rule_unknown(rule: Rule[...], kind: type) -> None:
    facts = Facts({**patient().known, kind: Missing("it is locked away")})

    assert outcome_of(rule, facts) == Unknown(rule, "it is locked away")


@pytest.mark.parametrize("rule", [rule for rule in all_rules() if rule.optional], ids=lambda rule: rule.name)
def test_rule_does_without_its_optional_facts(rule: Rule[...]) -> None:
    optional = {kind: Missing("it is locked away") for parameter, kind in rule.reads if parameter in rule.optional}

    assert isinstance(outcome_of(rule, Facts({**patient().known, **optional})), Clear | Unknown)


# ----------------------------------------------------------------------------------------------- the declarations


def test_codes_and_names_are_unique() -> None:
    assert len({rule.code for rule in all_rules()}) == len(RULES) == len(all_rules())


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.name)
def test_declaration_is_sound(rule: Rule[...]) -> None:
    package, family, module = rule.check.__module__.rsplit(".", 2)

    assert re.fullmatch(r"AD\d{3}", rule.code)
    assert (package, family, module) == ("adapter_doctor.rules", FAMILIES[rule.code[2]], rule.check.__name__)
    assert re.fullmatch(r"[A-Z`][^\n]{10,110}\.", rule.title), rule.title
    assert ". " not in rule.title, "a title is one sentence"
    assert re.findall(r"^## .*", rule.body, re.M) == ["## Why it matters", "## Common causes", "## Fix"]
    assert all(rule.body.split(heading)[1].strip() for heading in ("## Why it matters", "## Common causes", "## Fix"))
    assert rule.reads, "a rule that reads nothing finds nothing"
    assert re.fullmatch(r"\d+\.\d+|NEXT", rule.since)


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.name)
def test_what_a_rule_explains_exists(rule: Rule[...]) -> None:
    codes = {other.code for other in all_rules()} - {rule.code}

    assert [start for start in rule.explains if not any(code.startswith(start) for code in codes)] == []


def test_errors_do_not_explain_each_other_in_a_circle() -> None:
    errors = [Fired(rule, (Hit("it is there"),)) for rule in all_rules() if rule.severity is Severity.ERROR]
    causes: dict[str, set[str]] = {}
    for pair in combinations(errors, 2):
        for finding in diagnose(pair).findings:
            causes.setdefault(finding.rule.code, set()).update(filter(None, [finding.consequence_of]))

    TopologicalSorter(causes).prepare()  # raises CycleError: each would be folded under the next, and none be the cause


def test_every_rule_has_cases_and_no_case_file_is_left_over() -> None:
    assert sorted(path.stem for path in CASES.iterdir()) == sorted(RULES)


@pytest.mark.parametrize("path", sorted(CASES.glob("*.toml")), ids=lambda path: path.stem)
def test_case_file_is_sound(path: Path) -> None:
    kinds = tomllib.loads(path.read_text("utf-8"))
    names = [case["name"] for kind in KINDS for case in kinds.get(kind, ())]

    assert set(kinds) <= set(KINDS)
    assert len(names) == len(set(names)), "two cases have the same name"
    assert len(kinds.get("well", ())) >= 2, "half of the cases are about silence"
    assert kinds.get("sick") or kinds.get("unsure")
    assert all(case["says"] for case in kinds.get("sick", ()))


def test_page_of_the_rules_is_up_to_date() -> None:
    path = Path(__file__).parents[1] / "scripts" / "rule_pages.py"
    spec = importlib.util.spec_from_file_location("rule_pages", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    assert script.PAGE.read_text("utf-8") == script.text(), "run scripts/rule_pages.py"
