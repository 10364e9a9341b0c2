"""Models that once needed the code of their own repository: its module names and those of transformers' class.

The table is `remote_code.toml`; each entry says where its names come from.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

STACKED: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "W_pack": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Layers whose rows are those of their parts one behind the other in every model that has them: `qkv_proj` of Phi-3,
`W_pack` of Baichuan, `gate_up_proj` of Phi-3 and GLM. Those of GPT-NeoX or Falcon interleave heads; those of other models
go by their entry in the table."""
Pattern = tuple[str, ...]
"""The end of a module path, part by part: `*` is a number. A last `**` is whatever follows the other parts."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """A layer that is one in the ``remote`` code and several in transformers' class, in the order of its rows.

    ``grouped``: the rows of one key/value head are one behind the other, those of its query heads first.
    """

    remote: Pattern
    parts: tuple[Pattern, ...]
    grouped: bool


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """The two sets of names of one model.

    ``whose`` says whose the other names are, ``repository`` which base has this code (empty: the base itself),
    ``converted`` which base is its twin for transformers' class. ``types`` are the model types that configs with remote
    code have, ``built_in`` those of the class that transformers has ``since`` a release; an empty ``since`` means that
    bases of this kind are copies in another model's layout. ``needs`` is a requirement on transformers.
    """

    whose: str
    repository: str
    converted: str
    types: tuple[str, ...]
    built_in: tuple[str, ...]
    since: str
    load: str
    needs: str
    named: tuple[str, ...]
    source: str
    renames: tuple[tuple[Pattern, Pattern], ...]
    fusions: tuple[Fusion, ...]


@cache
def remote_models() -> tuple[RemoteModel, ...]:
    """Every model in the table."""
    return tuple(_model(row) for row in _table()["model"])


def built_in_after(model_type: str, release: str) -> bool:
    """Whether transformers got its class for a model type only after a release, 4.51 or 4.57."""
    table = _table()
    return model_type in table["after_4_57"] or (release == "4.51" and model_type in table["after_4_51"])


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("remote_code.toml").read_text("utf-8"))


def _model(row: dict[str, Any]) -> RemoteModel:
    renames, fusions = [], []
    for table in ("modules", "grouped"):
        for old, new in row.get(table, {}).items():
            if isinstance(new, str):
                renames.append((_pattern(old), _pattern(new)))
            else:
                fusions.append(Fusion(_pattern(old), tuple(map(_pattern, new)), table == "grouped"))
    return RemoteModel(
        whose=row["whose"], repository=row.get("repository", ""), converted=row.get("converted", ""),
        types=tuple(row["types"]), built_in=tuple(row["built_in"]), since=row.get("since", ""),
        load=row.get("load", "`trust_remote_code=True`"), named=tuple(row.get("named", ())),
        needs=row.get("needs", ""), source=row["source"], renames=tuple(renames), fusions=tuple(fusions),
    )  # fmt: skip


def _pattern(path: str) -> Pattern:
    return tuple(path.split("."))


def match(parts: list[str], pattern: Pattern) -> tuple[int, list[str]] | None:
    """Where the pattern begins in a path, and what its stars stand for; None where it does not match.

    A pattern of one part matches a whole path only: `lm_head` is no part of another model's.
    """
    if pattern[-1] == "**":
        head = pattern[:-1]
        for start in range(len(parts) - len(head)):
            stars = _stars(parts[start : start + len(head)], head)
            if stars is not None:
                return start, [*stars, ".".join(parts[start + len(head) :])]
        return None
    start = len(parts) - len(pattern)
    if start < 0 or (start and len(pattern) == 1):
        return None
    found = _stars(parts[start:], pattern)
    return None if found is None else (start, found)


def _stars(parts: list[str], pattern: Pattern) -> list[str] | None:
    """What the stars of a pattern stand for in a path that begins with it; None where it does not."""
    stars = []
    for own, part in zip(parts, pattern, strict=False):
        if part != "*":
            if own != part:
                return None
        elif own.isdecimal():
            stars.append(own)
        else:
            return None
    return stars


def filled(pattern: Pattern, stars: list[str]) -> str:
    """The path that a pattern stands for."""
    rest = iter(stars)
    return ".".join(next(rest) if part in ("*", "**") else part for part in pattern)
