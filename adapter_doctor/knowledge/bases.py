"""What is known about base models that people fine-tune: dimensions, and the widths of every module.

`scripts/build_bases.py` writes the table from published configs; each entry says which.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Widths = frozenset[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Span:
    """Modules of one path with numbers left out: their (out_features, in_features), and how deep they reach.

    ``layers`` is one more than the highest number on the path's first numbered level; 0 for a path without one. For an
    embedding the widths are (embedding_dim, num_embeddings).
    """

    widths: Widths
    layers: int


@dataclass(frozen=True)
class KnownBase:
    """A base model. ``modules`` maps paths, with `*` for numbers, to what lies there in transformers' own class.

    ``vocab`` counts the rows of the embedding. ``parameters`` counts tied weights once. ``heads`` and what follows from
    it are None for models without attention, ``vocab`` for those without text.
    """

    id: str
    model_type: str
    hidden: int
    intermediate: int | None
    layers: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    vocab: int | None
    tied: bool
    parameters: int
    source: str
    modules: Mapping[str, Span]


@cache
def known_bases() -> Mapping[str, KnownBase]:
    """Every base in the table, by its id on the Hub."""
    table = _table()
    trees, found = table["trees"], {}
    for name, row in table["bases"].items():
        row = dict(row)
        spans = [Span(frozenset((out, into) for out, into in widths), layers) for widths, layers in row.pop("modules")]
        found[name] = KnownBase(id=name, modules=dict(zip(trees[row.pop("tree")], spans, strict=True)), **row)
    return found


@cache
def copies() -> Mapping[str, str]:
    """Ids of copies (re-uploads, ready-made 4-bit versions) to the id of the base in the table."""
    copies: dict[str, str] = _table()["copies"]
    return copies


def known_as(name: str) -> str | None:
    """The id of the known base, or of the known copy of one, that a name or a path means by its last part.

    A path of another machine often ends in the repository's name, also as `models--owner--name` of the Hub's cache.
    """
    for part in reversed([part for part in re.split(r"[\\/]", name.strip()) if part]):
        cached = re.fullmatch(r"models--(.+?)--(.+)", part)
        found = _ids_by_name().get((f"{cached[1]}/{cached[2]}" if cached else part).lower())
        if found or not re.fullmatch(r"[0-9a-f]{40}|snapshots|final|checkpoint-\d+|main|hf", part, re.IGNORECASE):
            return found
    return None


@cache
def _ids_by_name() -> dict[str, str]:
    """Ids by themselves and by their last part, in lower case; where a base and a copy share one, the base's."""
    found: dict[str, str] = {}
    for name in (*known_bases(), *copies()):
        found[name.lower()] = name
        found.setdefault(name.rpartition("/")[2].lower(), name)
    return found


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(__file__).with_name("bases.json").read_text(encoding="utf-8"))
    return table
