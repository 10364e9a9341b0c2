"""Match module names against a stranger's patterns as PEFT does, but within a time limit.

PEFT hands `target_modules` strings and the keys of `rank_pattern` to `re` as they are, so a pattern that backtracks
without end hangs the load. `regex` understands the same patterns and can be stopped.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterable
from typing import Any

SECONDS = 2.0
"""For all the names one pattern is matched against together; a sound pattern takes milliseconds."""
MAX_LENGTH = 100_000


class BadPattern(ValueError):
    """The pattern does not compile, or does not finish; the message is a clause."""


def matching(pattern: str, names: Iterable[str], *, whole: bool = True) -> list[str]:
    """The names that the pattern matches: from start to end if ``whole`` (``re.fullmatch``), else from the start.

    Raises:
        BadPattern: it does not compile (as `re`, which PEFT uses, sees it), or takes longer than ``SECONDS``.
    """
    compiled = _compiled(pattern)
    deadline = time.monotonic() + SECONDS
    found = []
    for name in names:
        try:
            left = max(0.01, deadline - time.monotonic())
            match = compiled.fullmatch(name, timeout=left) if whole else compiled.match(name, timeout=left)
        except TimeoutError:
            raise BadPattern(f"does not finish: matching {name!r} was stopped after {SECONDS:g} seconds") from None
        if match is not None:
            found.append(name)
    return found


def _compiled(pattern: str) -> Any:
    import regex

    if len(pattern) > MAX_LENGTH:
        raise BadPattern(f"is {len(pattern):,} characters long")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `re` warns about what will change; PEFT's user does not see it either
            re.compile(pattern)
            return regex.compile(pattern, regex.VERSION0)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadPattern(f"is no regular expression: {error}") from None
    except regex.error as error:
        raise BadPattern(f"cannot be examined: {error}") from None


def pattern_key(keys: Iterable[str], name: str) -> str | None:
    """The first key of a `rank_pattern` that applies to a module, as PEFT finds it (peft/utils/other.py, get_pattern_key).

    Raises:
        BadPattern: as in :func:`matching`.
    """
    for key in keys:
        if re.fullmatch(r"[\w.]+", key) and "." not in key:  # the usual case, a bare name, needs no regular expression
            if name == key or name.endswith(f".{key}"):
                return key
        elif matching(rf"(.*\.)?({key})$", [name], whole=False):
            return key
    return None
