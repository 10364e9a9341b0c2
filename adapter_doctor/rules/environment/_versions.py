"""Compare version numbers, as far as the rules of this family need it: by their numbers, whatever follows them."""

from __future__ import annotations

import re


def numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, without zeros at the end; none for what is no version."""
    found = re.match(r"v?(\d{1,9}(?:\.\d{1,9})*)", version.strip())
    parts = [int(part) for part in found[1].split(".")] if found else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def is_older(version: str, other: str) -> bool:
    """Whether one version comes before another; a development version counts as the release that it leads to."""
    return bool(re.match(r"v?\d", version.strip())) and numbers(version) < numbers(other)


def allows(specifier: str, version: str) -> bool:
    """Whether a version meets a specifier made of `>=` and `<`, such as `>=5.0,<6`.

    Raises:
        ValueError: the specifier has another operator.
    """
    for clause in specifier.split(","):
        found = re.fullmatch(r"\s*(>=|<)\s*([\w.]+)\s*", clause)
        if found is None:
            raise ValueError(f"{specifier!r} has a clause other than >= and <")
        if is_older(version, found[2]) == (found[1] == ">="):
            return False
    return True
