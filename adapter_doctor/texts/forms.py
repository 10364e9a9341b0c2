"""The known forms of libraries' messages, a table of data, and the search for them in a text.

`forms.toml` holds them. Of each, ``find`` are the constant parts by one of which it is recognised, and ``pattern`` (if
any) is a regular expression that must match around that place and names the words to quote; where the form is ``sure``
it is recognised without the words as well. Both are written as the
message is and matched with all white space taken out, so a line that a terminal wrapped is no other line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from adapter_doctor.facts import Message
from adapter_doctor.texts.reading import Text

_BEFORE, _AFTER = 600, 4_000
_PLACES = 40
_LONGEST_VALUE = 160


@dataclass(frozen=True)
class Form:
    """One form: its name, the library that says it, the rule it speaks of, and how it is recognised and retold.

    ``says`` and ``fix`` may hold the pattern's named words in braces, and parts in
    square brackets that fall away where their word is not in the message. ``hides`` names forms that follow from this one
    where both are there. ``examples`` are whole messages.
    """

    name: str
    of: str
    code: str
    find: tuple[str, ...]
    pattern: str | None
    sure: bool
    says: str
    fix: str | None
    hides: tuple[str, ...]
    examples: tuple[str, ...]


@cache
def all_forms() -> tuple[Form, ...]:
    """The table, in its own order: what is more specific stands first."""
    table = tomllib.loads(Path(__file__).with_name("forms.toml").read_text(encoding="utf-8"))
    return tuple(_form(row) for row in table["form"])


def _form(row: Mapping[str, Any]) -> Form:
    pattern = row.get("pattern")
    return Form(
        row["name"], row["of"], row["code"], tuple(map(squeeze, row["find"])),
        pattern.replace(" ", "") if pattern else None, pattern is None or row.get("sure", False),
        row["says"], row.get("fix"), tuple(row.get("hides", ())), tuple(row["examples"]),
    )  # fmt: skip


def squeeze(text: str) -> str:
    """``text`` without white space."""
    return "".join(text.split())


def recognise(text: Text) -> tuple[Message, ...]:
    """The known messages in a text by their place, each form once with different words, without those that follow."""
    squeezed = text.squeezed
    found: list[tuple[int, Message]] = []
    names: set[str] = set()
    hidden: set[str] = set()
    for form in all_forms():
        seen = set()
        for at, words in _sightings(form, squeezed):
            says = _filled(form.says, words)
            if says in seen:
                continue
            seen.add(says)
            names.add(form.name)
            line, quote = text.at(at)
            fix = _filled(form.fix, words) if form.fix else None
            found.append((at, Message(form.name, form.code, says, fix, line, quote[:300])))
    for form in all_forms():
        if form.name in names:
            hidden.update(form.hides)
    found.sort(key=lambda one: one[0])
    return tuple(message for _, message in found if message.form not in hidden)


def _sightings(form: Form, squeezed: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    for constant in form.find:
        at = squeezed.find(constant)
        for _ in range(_PLACES):
            if at < 0:
                break
            window = squeezed[max(0, at - _BEFORE) : at + len(constant) + _AFTER]
            match = re.search(form.pattern, window) if form.pattern else None
            if match is not None:
                yield max(0, at - _BEFORE) + match.start(), _shown(match.groupdict(""))
            elif form.sure:
                yield at, {}
            at = squeezed.find(constant, at + len(constant))


def _filled(sentence: str, words: Mapping[str, str]) -> str:
    """The sentence with its words put in, and without those parts in square brackets whose word is not there."""
    sentence = _OPTIONAL.sub(lambda part: part[1] if words.get(part[2]) else "", sentence)
    return sentence.format_map({**dict.fromkeys(_NAMED.findall(sentence), ""), **words})


def _shown(words: Mapping[str, str | None]) -> dict[str, str]:
    """The words to quote, with the white space that lists had, and not too long."""
    shown = {}
    for name, value in words.items():
        value = re.sub(r",(?=\S)", ", ", value or "")
        shown[name] = value if len(value) <= _LONGEST_VALUE else value[: _LONGEST_VALUE - 2] + " …"
    return shown


def nearest(text: Text, most: int = 3) -> tuple[tuple[Form, str], ...]:
    """The forms whose examples share most of their words with the text's last exceptions, with an example each."""
    lines = [line for _, line in text.lines[-4000:] if _EXCEPTION.match(line)] or [line for _, line in text.lines[-40:]]
    words = set(_WORD.findall(" ".join(line[:2000] for line in lines[-8:]).lower()))
    rated = []
    for form in all_forms():
        for example in form.examples:
            theirs = set(_WORD.findall(example.lower()))
            common = words & theirs
            rate = sum(map(len, common)) / (1 + sum(map(len, theirs)))
            if len(common) >= 3 and rate >= 0.3:
                rated.append((rate, form.name, form, example))
                break
    rated.sort(key=lambda one: (-one[0], one[1]))
    return tuple((form, example) for _, _, form, example in rated[:most])


_OPTIONAL = re.compile(r"\[([^\[\]]{0,200}\{(\w{1,40})\}[^\[\]]{0,200})\]")
_NAMED = re.compile(r"(?<!\{)\{(\w{1,40})\}(?!\})")
_EXCEPTION = re.compile(r"[\w.]{0,120}(?:Error|Exception|Warning|Interrupt)\b")
_WORD = re.compile(r"[a-z_]{3,40}")
