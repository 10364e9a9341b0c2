"""Explain a text in which something failed, in order: read it, recognise what it says, judge it by the rules of `check`.

What the text lists of an adapter's names and shapes becomes the same facts that `check` gathers from files, and the same
rules judge them. A plain state dict has rules of its own, and messages that are known by their wording speak of a rule.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapter_doctor import doctor
from adapter_doctor.diagnosis import diagnose
from adapter_doctor.engine import Fired, Outcome, Unknown, judge
from adapter_doctor.errors import DoctorError, os_error_sentence
from adapter_doctor.facts import Messages
from adapter_doctor.findings import Severity
from adapter_doctor.report import AdapterError, Report
from adapter_doctor.rules import Rule, all_rules
from adapter_doctor.texts import forms, reading
from adapter_doctor.texts.adapter_facts import TELLING
from adapter_doctor.texts.reading import Text
from adapter_doctor.texts.recognition import by_code, recognise

_CHECKED, _TEXT = "012345", "9"
_UNTOLD = "a text alone does not tell it"
_UNKNOWN = "the text was not recognised"


def explain(
    error_or_text: BaseException | str,
    *,
    base: Any = None,
    adapter: str | Path | None = None,
    **options: Any,
) -> Report:
    """What went wrong, from an exception or from a text: a traceback, a log, a notebook's error output.

    With ``adapter`` (and ``base``, else the one it names) the files are examined too, as by :func:`doctor.check` with
    ``options``, and the report says whether they bear the text out. A text that is not recognised makes the report
    undetermined; its notes name the nearest known forms.

    Raises:
        DoctorError: there is no text, or a base without an adapter.
    """
    if isinstance(error_or_text, AdapterError):
        return error_or_text.report
    if isinstance(error_or_text, BaseException):
        text = reading.read_string("".join(traceback.format_exception(error_or_text)))
        return explain_text(text, type(error_or_text).__name__, base=base, adapter=adapter, **options)
    return explain_text(reading.read_string(error_or_text), "the text", base=base, adapter=adapter, **options)


def explain_file(path: Path, **options: Any) -> Report:
    """The same for a file of any size.

    Raises:
        DoctorError: it cannot be read, or is no text.
    """
    try:
        with path.open("rb") as stream:
            if not reading.is_text(stream):
                raise DoctorError(f"{path} is no text", f"adapter-doctor check {path}")
            return explain_text(reading.read(stream), str(path), **options)
    except OSError as error:
        raise DoctorError(f"{path} cannot be read: {os_error_sentence(error)}") from error


def explain_text(text: Text, reference: str, *, base: Any = None, adapter: Any = None, **options: Any) -> Report:
    """The report on a text that was read, under the name ``reference``.

    Raises:
        DoctorError: it is empty, or there is a base without an adapter.
    """
    if not text.lines:
        raise DoctorError("there is no text to explain", "adapter-doctor explain FILE, or - for what is piped in")
    if base is not None and adapter is None:
        raise DoctorError("a base was given without an adapter", "add --adapter ADAPTER")
    fired, notes = _recognised(text)
    about = {"reference": reference, "bytes": text.size, "recognised": bool(fired), "partial": text.partial}
    if adapter is not None:
        return _with_files(doctor.check(base, adapter, **options), fired, notes, about)
    codes = {one.rule.code for one in fired}
    unknown = [
        Unknown(rule, _UNTOLD if fired else _UNKNOWN)
        for rule in all_rules()
        if rule.code[2] in _CHECKED and rule.code not in codes
    ]
    nothing = {"reference": None}
    return Report(diagnose([*fired, *unknown]), "text", nothing, nothing, notes=tuple(notes), text=about)


# ----------------------------------------------------------------------------------------------------- the text alone


def _recognised(text: Text) -> tuple[list[Fired], list[str]]:
    """The findings that the text gives rise to, and what else is to be said."""
    told = recognise(text)
    rules = {rule.code: rule for rule in all_rules()}
    fired: dict[str, Fired] = {}
    telling = [rules[code] for code in TELLING]
    own = [rule for rule in rules.values() if rule.code[2] == _TEXT]
    for one in (*(one for facts in told.adapters for one in judge(telling, facts)), *judge(own, told.facts)):
        if isinstance(one, Fired):
            fired.setdefault(one.rule.code, one)
    messages = told.facts.get(Messages)
    assert isinstance(messages, Messages)
    for code, found in by_code(messages).items():
        if code not in fired:  # what was judged from names and shapes is more exact
            fired[code] = Fired(rules[code], tuple(message.hit for message in found))
    notes = list(told.doubts)
    if not fired:
        notes += _not_recognised(text)
    elif text.partial:
        notes.append(f"of {text.size >> 20} MB only the surroundings of messages were read")
    return list(fired.values()), notes


def _not_recognised(text: Text) -> list[str]:
    notes = ["not recognised: no known message of torch, PEFT, transformers or a serving engine is in the text"]
    for form, example in forms.nearest(text):
        notes.append(f"nearest known form: {form.name} ({form.of}): {example[:160]}")
    return [*notes, "what the files themselves say: `adapter-doctor check BASE ADAPTER`"]


# ------------------------------------------------------------------------------------------------ the files as well


def _with_files(report: Report, fired: list[Fired], notes: list[str], about: Mapping[str, Any]) -> Report:
    """The report on the files, with what the text tells and whether the files bear it out."""
    found = {finding.rule.code: finding for finding in report.findings}
    unknown = {one.rule.code for one in report.diagnosis.unknown}
    more: list[Fired] = []
    for one in fired:
        name = f"{one.rule.code} {one.rule.name}"
        if one.rule.code[2] not in _CHECKED or one.rule.code in unknown:
            more.append(one)
            notes.append(f"what the text tells of {name} cannot be examined in these files")
        elif one.rule.code in found or any(_same_matter(one.rule, other.rule) for other in found.values()):
            notes.append(f"the files bear the text out: {name}")
        else:
            notes.append(
                f"the files do not bear the text out: it tells of {name} ({one.hits[0].message}), which they do not show;"
                " it is of other files, or of another environment"
            )
    if not fired:
        notes.append("what follows is about the files alone")
    outcomes: list[Outcome] = [Fired(finding.rule, finding.hits) for finding in report.findings]
    known = {one.rule.code for one in outcomes}
    outcomes += [one for one in more if one.rule.code not in known]
    kept = tuple(one for one in report.diagnosis.unknown if one.rule.code not in {told.rule.code for told in more})
    diagnosis = diagnose([*outcomes, *kept, *report.diagnosis.crashed])
    return replace(report, diagnosis=diagnosis, notes=(*notes, *report.notes), text=about)


def _same_matter(told: Rule[...], found: Rule[...]) -> bool:
    """Whether a finding on the files is what the text tells, seen from nearer by or farther off."""
    return found.severity is Severity.ERROR and (found.accounts_for(told.code) or told.accounts_for(found.code))
