"""Tell whether two names of a base model mean the same one, as far as names can tell."""

from __future__ import annotations

import re

_PATH = re.compile(r"^(/|\.{1,2}/|~|[A-Za-z]:[\\/]|\\\\)|\\")


def is_local_path(name: str) -> bool:
    """Whether the name is a path on somebody's disk and no Hub id."""
    return bool(_PATH.search(name)) or name.count("/") > 1


def last_part(name: str) -> str:
    """The last component of a path or id, in lower case."""
    return re.split(r"[\\/]", name.rstrip("\\/"))[-1].lower()


def same_base(named: str, given: str) -> bool:
    """Whether the base that a config names is the one given: the same text, or a path that ends in the same name."""
    one, other = named.strip().rstrip("/"), given.strip().rstrip("/")
    if not one or not other or one.lower() == other.lower():
        return True
    if is_local_path(one) or is_local_path(other):
        return last_part(one) == last_part(other)
    if "/" in one and "/" in other:
        return False
    return last_part(one) == last_part(other)  # an id without organisation is an old canonical one
