"""Every failure that the libraries here really produce is named by its rule, however its text arrives."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest
from really_failing import FAILURES, Failure, text_of

from adapter_doctor import explain

pytest.importorskip("torch")


@functools.cache
def failed(failure: Failure) -> tuple[BaseException | None, str]:
    return text_of(failure, Path(tempfile.mkdtemp()))


def codes(text: BaseException | str) -> list[str]:
    return [one.rule.code for one in explain(text).findings if one.consequence_of is None]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_text_names_the_rule(failure: Failure) -> None:
    _, text = failed(failure)

    assert codes(text)[:1] == [failure.code], text[-3000:]
