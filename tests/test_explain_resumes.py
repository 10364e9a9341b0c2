"""What really failing resumes said, under DeepSpeed, FSDP and with other optimizers, is named by its rule however it arrives."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from adapter_doctor import explain

TEXTS = tomllib.loads((Path(__file__).parent / "resume_texts.toml").read_text(encoding="utf-8"))["text"]


def codes(text: str) -> list[str]:
    return [one.rule.code for one in explain(text).findings if one.consequence_of is None]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text["name"])
def test_text_names_the_rule_and_no_other(text: dict[str, str]) -> None:
    assert codes(text["says"]) == [text["code"]]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text["name"])
def test_terminal_that_wraps_it_changes_nothing(text: dict[str, str]) -> None:
    lines = text["says"].splitlines()
    wrapped = "\n".join(line[at : at + 80] for line in lines for at in range(0, max(len(line), 1), 80))

    assert codes(wrapped) == [text["code"]]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text["name"])
def test_no_word_of_another_line_is_quoted(text: dict[str, str]) -> None:
    """Messages are matched without white space, where the next line begins right behind them."""
    told = [hit.message for one in explain(text["says"]).findings for hit in one.hits]

    assert not [one for one in told if "Traceback" in one or "[rank" in one]
