"""Keep the module trees of skeletons on disk, so that a later static check knows a base's true names and shapes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MAX_TREES = 200
MAX_BYTES = 20_000_000
"""Of one tree, unpacked; a base of 405B parameters takes 0.2 MB."""


def folder() -> Path:
    """Where the trees lie: the user's cache folder, or what ADAPTER_DOCTOR_CACHE names."""
    named = os.environ.get("ADAPTER_DOCTOR_CACHE")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("adapter-doctor")) / "trees"


def key(
    config: Mapping[str, Any],
    task: str,
    mapping: Any,
    model_class: str | None,
    transformers: str | None,
    paths: Iterable[str],
) -> str:
    """The name of the tree of this base under this transformers, for adapters of this task and layout.

    Where a base can be loaded as several classes, the adapter's paths decide, so what stands before their first number
    is part of the name.
    """
    fronts = sorted({path.split(".0.")[0] if ".0." in path else path.partition(".")[0] for path in paths})[:50]
    parts = [config, task, mapping, model_class, transformers, fronts]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def read(name: str) -> dict[str, Any] | None:
    """The tree of this name as the child wrote it, or None where it is not there or damaged."""
    try:
        with gzip.open(folder() / f"{name}.json.gz", "rb") as file:
            tree = json.loads(file.read(MAX_BYTES))
    except (OSError, EOFError, ValueError):
        return None
    return tree if isinstance(tree, dict) and isinstance(tree.get("modules"), dict) else None


def write(name: str, tree: Mapping[str, Any]) -> None:
    """Keep a tree, and drop the oldest beyond ``MAX_TREES``. A cache that cannot be written is no failure."""
    home = folder()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=home, delete=False) as file:
            file.write(gzip.compress(json.dumps(tree).encode()))
        Path(file.name).replace(home / f"{name}.json.gz")
        trees = sorted(home.glob("*.json.gz"), key=lambda path: path.stat().st_mtime)
        for old in trees[:-MAX_TREES]:
            old.unlink(missing_ok=True)
    except OSError:  # a read-only home, a full disk: the next static check will know less, nothing else
        return
