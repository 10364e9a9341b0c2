"""What people say of a failure in their own words: short texts without any message, held against a table of wordings.

`descriptions.toml` holds it. A ``pattern`` is matched whatever the case, with runs of white space as one space.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from adapter_doctor.facts import Message
from adapter_doctor.texts.reading import Text

LONGEST = 600
"""Characters; what is longer is a log, in which such words mean something else."""


def described(text: Text) -> tuple[Message, ...]:
    """What a short text describes, by the table's order; nothing for a long one."""
    words = " ".join(" ".join(line.split()) for _, line in text.lines[:LONGEST]).strip()
    if len(words) > LONGEST:
        return ()
    return tuple(
        Message(row["name"], row["code"], "as described: " + _filled(row["says"], found), _filled(row["fix"], found), 1, words[:300])
        for row in _table()
        if (found := re.search(row["pattern"], words, re.IGNORECASE))
    )  # fmt: skip


@cache
def _table() -> tuple[dict[str, Any], ...]:
    with Path(__file__).with_name("descriptions.toml").open("rb") as file:
        return tuple(tomllib.load(file)["description"])


def _filled(sentence: str, found: re.Match[str]) -> str:
    prefix = found.groupdict().get("prefix")
    return sentence.replace("{prefix}", prefix) if prefix else sentence
