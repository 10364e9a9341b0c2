"""The order in which transformers' models register their modules, by class: `scripts/build_module_order.py` writes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

from adapter_doctor.knowledge import _table


def in_model_order(names: Iterable[str], class_name: str) -> list[str] | None:
    """``names`` of modules as a model of this class registers them; None where the class or one of them is not known."""
    known = _ranks(class_name)
    return sorted_by(known, names) if known else None


def sorted_by(known: Mapping[str, int], names: Iterable[str]) -> list[str] | None:
    """``names`` by the ranks of their paths, and by number among equals; None where a path has no rank."""
    keyed = []
    found: dict[str, int | None] = {}  # of the paths so far, since those of one layer begin alike
    for name in names:
        parts = name.split(".") if name else []
        key = []
        for depth, part in enumerate(parts):
            path = ".".join(parts[: depth + 1])
            if path not in found:
                found[path] = known.get(pattern(path), known.get(pattern(path, 1)))
            if (rank := found[path]) is None:
                return None
            key.append((rank, int(part) if part.isdecimal() else 0))
        keyed.append((key, name))
    return [name for _, name in sorted(keyed)]


def ranks(order: Iterable[str]) -> dict[str, int]:
    """The place of every path in ``order``, and of what leads to it."""
    found: dict[str, int] = {}
    for path in order:
        parts = path.split(".")
        for depth in range(len(parts)):
            found.setdefault(".".join(parts[: depth + 1]), len(found))
    return found


def pattern(path: str, most: int = 0) -> str:
    """A path with its numbers written as ``#``: all of them, or the first ``most``."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "#", path, count=most)


@cache
def _ranks(class_name: str) -> dict[str, int]:
    table = _table("module_order")
    number = table["classes"].get(class_name)
    return ranks(table["orders"][number]) if number is not None else {}
