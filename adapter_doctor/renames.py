"""Search the one rewrite of module paths under which an adapter's tensors fit the base."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from adapter_doctor import knowledge
from adapter_doctor.facts import BaseModules, Rename

VOTERS = 400
"""Paths that vote for rewrites; the winner is then tried on all of them."""
Fits = Callable[[str, str], bool]


def search(paths: Iterable[str], base: BaseModules, model_type: str, fits: Fits) -> Rename | None:
    """The smallest rewrite under which more than half of ``paths`` become modules of the base, one to one.

    ``fits(path, module)`` tells whether the tensors of a path have the widths of a module. First the renames that
    transformers itself makes on load are tried, since adapters of older releases carry the old names.
    """
    paths = sorted(set(paths))
    if not paths:
        return None
    library = _library_rename(paths, base, model_type, fits)
    if library is not None:
        return library
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for name in base.modules:
        alike[_signature(name)].append(name)
    votes: Counter[Rename] = Counter()
    for path in paths[:: max(1, len(paths) // VOTERS)]:
        found = {_difference(path, name) for name in alike.get(_signature(path), ())[:8]}
        votes.update(one for one in found if one is not None)
    for rename, _ in sorted(votes.items(), key=lambda item: (-item[1], len(item[0].old) + len(item[0].new))):
        count = _fitting(paths, lambda path, one=rename: renamed(path, one), base, fits)  # type: ignore[misc]
        if count * 2 > len(paths):
            return replace(rename, count=count)
    return None


def renamed(path: str, rename: Rename) -> str:
    """The path after the rewrite, or as it is where the rewrite does not apply."""
    if rename.steps:
        for old, new in rename.steps:
            path = re.sub(old, new, f"{path}.", count=1).removesuffix(".")
        return path
    parts = path.split(".")
    before = rename.old.split(".") if rename.old else []
    after = rename.new.split(".") if rename.new else []
    for at in range(1 if rename.front else len(parts) - len(before) + 1):
        if parts[at : at + len(before)] == before:
            return ".".join(parts[:at] + after + parts[at + len(before) :])
    return path


def _fitting(paths: list[str], rewrite: Callable[[str], str], base: BaseModules, fits: Fits) -> int:
    """How many of the paths become modules of the base; none if two become the same, or one has other widths."""
    there = {path: name for path in paths if (name := rewrite(path)) != path and name in base.modules}
    if len(set(there.values())) != len(there) or not all(fits(path, name) for path, name in there.items()):
        return 0
    return len(there)


def _signature(path: str) -> tuple[str, tuple[str, ...]]:
    """What a rewrite leaves alone: the last part, and the numbers along the way."""
    parts = path.split(".")
    return parts[-1], tuple(part for part in parts if part.isdigit())


def _difference(path: str, name: str) -> Rename | None:
    """The rewrite that turns the path into the name: of its front where that is all, else of one stretch inside."""
    one, other = path.split("."), name.split(".")
    while one and other and one[-1] == other[-1]:
        one.pop()
        other.pop()
    if not any(part.isdigit() for part in one + other):
        return Rename(".".join(one), ".".join(other), 0, front=True)
    tail = path.split(".")[len(one) :]
    while one and other and one[0] == other[0]:
        one.pop(0)
        other.pop(0)
    if not one:  # a level is missing: the part behind it says where it belongs
        one, other = tail[:1], other + tail[:1]
    if any(part.isdigit() for part in one + other):
        return None
    return Rename(".".join(one), ".".join(other), 0)


def _library_rename(paths: list[str], base: BaseModules, model_type: str, fits: Fits) -> Rename | None:
    """transformers' own renames for the classes in this model, as one rewrite, where they fit."""
    names = {base.class_name, model_type, *(module.class_name for module in base.modules.values())} - {""}
    steps = tuple(
        (source, target)
        for name in sorted(names)
        for step in knowledge.conversions(name)
        if step.kind == "rename"
        for source, target in zip(step.sources, step.targets * len(step.sources), strict=False)
    )
    if not steps:
        return None
    rename = Rename("", "", 0, steps=steps)
    count = _fitting(paths, lambda path: renamed(path, rename), base, fits)
    if count * 2 <= len(paths):
        return None
    example = next(path for path in paths if renamed(path, rename) in base.modules and renamed(path, rename) != path)
    return replace(rename, old=example, new=renamed(example, rename), count=count)
