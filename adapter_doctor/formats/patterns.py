"""Match module names against a stranger's patterns as PEFT does, but within a time limit.

PEFT hands `target_modules` strings and the keys of `rank_pattern` to `re` as they are, so a pattern that backtracks
without end hangs the load. `re` cannot be stopped from within, so a pattern that could do this is tried in an
interpreter of its own, which can.
"""

from __future__ import annotations

import json
import re
import subprocess  # our own interpreter on a constant script; the pattern goes in as data
import sys
import warnings
from collections.abc import Iterable
from functools import lru_cache

SECONDS = 2
"""Of processor time, for all the names one pattern is matched against together; a sound pattern takes milliseconds."""
PATIENCE = 60.0
"""Seconds on the clock, for systems that cannot limit processor time; a busy machine must not make a pattern bad."""
MAX_LENGTH = 20_000
_SCRIPT = f"""
import json, re, sys, warnings
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
except (ImportError, OSError, ValueError):
    pass
warnings.simplefilter("ignore")
pattern, names, whole = json.load(sys.stdin)
match = re.compile(pattern).fullmatch if whole else re.compile(pattern).match
json.dump([name for name in names if match(name)], sys.stdout)
"""


class BadPattern(ValueError):
    """The pattern does not compile, or does not finish; the message is a clause."""


def matching(pattern: str, names: Iterable[str], *, whole: bool = True, core: str | None = None) -> list[str]:
    """The names that the pattern matches: from start to end if ``whole`` (``re.fullmatch``), else from the start.

    ``core`` is the part of the pattern that a stranger wrote, where the rest is PEFT's own.

    Raises:
        BadPattern: it does not compile, or takes more than ``SECONDS`` of processor time.
    """
    found = _matching(pattern, tuple(names), whole, pattern if core is None else core)
    if isinstance(found, BadPattern):
        raise found
    return list(found)


@lru_cache(maxsize=4096)
def _matching(pattern: str, names: tuple[str, ...], whole: bool, core: str) -> tuple[str, ...] | BadPattern:
    if len(pattern) > MAX_LENGTH:
        return BadPattern(f"is {len(pattern):,} characters long")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `re` warns about what will change; PEFT's user does not see it either
            compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return BadPattern(f"is no regular expression: {error}")
    if _is_tame(core) and max(map(len, names), default=0) <= 200:
        return tuple(name for name in names if (compiled.fullmatch(name) if whole else compiled.match(name)))
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            [sys.executable, "-I", "-S", "-c", _SCRIPT], input=json.dumps([pattern, names, whole]),
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return BadPattern(f"does not finish: matching {len(names)} module names was stopped after {PATIENCE:g} seconds")
    except OSError as error:
        return BadPattern(f"could not be tried: {error}")
    if done.returncode < 0:
        return BadPattern(f"does not finish: matching {len(names)} module names was stopped after {SECONDS} seconds")
    if done.returncode:
        return BadPattern(f"could not be tried: {done.stderr.strip().rpartition(chr(10))[2][:200]}")
    return tuple(json.loads(done.stdout))


def _is_tame(pattern: str) -> bool:
    """Whether matching a module name surely takes little time: at most three repeats and groups, no group repeated.

    Three repeats over a name of sixty signs are some thirty thousand steps. Groups other than `(?:` may change what
    the signs mean, and a `?` doubles the ways to match: neither is taken as tame.
    """
    bare = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "x", pattern).replace("(?:", "(")
    bare = re.sub(r"([*+}])\?", r"\1", bare)
    repeats = re.findall(r"[*+?{]", bare)
    return len(repeats) <= 3 and bare.count("(") <= 3 and not re.search(r"\)[*+?{]|\(\?", bare)


def pattern_key(keys: Iterable[str], name: str) -> str | None:
    """The first key of a `rank_pattern` that applies to a module, as PEFT finds it (utils/other.py, get_pattern_key).

    Raises:
        BadPattern: as in :func:`matching`.
    """
    for key in keys:
        if re.fullmatch(r"\w+", key):  # the usual case, a bare name, needs no regular expression
            if name == key or name.endswith(f".{key}"):
                return key
        elif matching(rf"(.*\.)?({key})$", [name], whole=False, core=key):
            return key
    return None


def names_matched(setting: list[str] | str, names: Iterable[str]) -> list[str]:
    """Module names that a `target_modules` or `exclude_modules` value covers (check_target_module_exists).

    Raises:
        BadPattern: the value is a regular expression that does not compile or finish.
    """
    if isinstance(setting, str):
        return matching(setting, names)
    wanted, ends = set(setting), tuple(f".{one}" for one in setting)
    return [name for name in names if name in wanted or name.endswith(ends)]
