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


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_terminal_that_wraps_it_changes_nothing(failure: Failure) -> None:
    _, text = failed(failure)
    wrapped = "\n".join(line[at : at + 80] for line in text.splitlines() for at in range(0, max(len(line), 1), 80))

    assert codes(wrapped)[:1] == [failure.code]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_exception_itself_says_as_much_as_its_text(failure: Failure) -> None:
    error, text = failed(failure)
    if error is None or "LOAD REPORT" in text:  # what was only warned or logged is not in the exception
        pytest.skip("the exception does not hold the message")

    assert codes(error)[:1] == [failure.code]


def test_no_failure_is_given_two_causes() -> None:
    for failure in FAILURES:
        _, text = failed(failure)
        found = [one for one in explain(text).findings if one.consequence_of is None and one.rule.code != "AD913"]

        assert len(found) == 1, (failure.name, [one.rule.code for one in found])
