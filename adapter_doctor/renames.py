"""Search the one rewrite of module paths under which an adapter's tensors fit the base."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from adapter_doctor import knowledge
from adapter_doctor.facts import BaseModules, Rename
from adapter_doctor.knowledge.remote_code import built_in_after

VOTERS = 400
"""Paths that vote for rewrites; the winner is then tried on all of them."""
MOST_PARTS = 3
"""Rewrites that one answer may have: a language model, a tower and what joins them."""
Fits = Callable[[str, str], bool]
Found = dict[str, str]
"""Module paths of the adapter to modules of the base."""


def search(paths: Iterable[str], base: BaseModules, model_type: str, fits: Fits) -> Rename | None:
    """The smallest rewrite under which more than half of ``paths`` become modules of the base, one to one.

    ``fits(path, module)`` tells whether the tensors of a path have the widths of a module. First the renames that
    transformers itself makes on load are tried, since adapters of older releases carry the old names. Paths that the
    best rewrite leaves alone may have one of their own, as the parts of a vision-language model do.
    """
    paths = sorted(set(paths))
    if not paths:
        return None
    library = _library_rename(paths, base, model_type, fits)
    if library is not None:
        return library
    parts: list[Rename] = []
    there: Found = {}
    while len(parts) < MOST_PARTS:
        left = [path for path in paths if path not in there]
        best = _best(left, base, fits, set(there.values())) if left else None
        if best is None:
            break
        parts.append(best)
        there |= _landing(left, best, base)
    if len(there) * 2 <= len(paths):
        return None
    parts.sort(key=lambda one: -len(one.old))  # the one that adds a level in front would take every path
    if {path: renamed(path, replace(parts[0], more=tuple(parts[1:]))) for path in there} != there:
        parts = [max(parts, key=lambda one: one.count)]
        there = _landing(paths, parts[0], base)
        if len(there) * 2 <= len(paths):
            return None
    first = replace(parts[0], more=tuple(parts[1:]), count=len(there))
    return replace(
        first, rivals=tuple(rival for one in parts for rival in one.rivals), release=_release(first, base, model_type)
    )


def _best(paths: list[str], base: BaseModules, fits: Fits, taken: set[str]) -> Rename | None:
    """The rewrite that most of the paths fit under, the smallest of several; with those that lead elsewhere as rivals."""
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for name in base.modules:
        alike[_signature(name)].append(name)
    votes: Counter[Rename] = Counter()
    for path in paths[:: max(1, len(paths) // VOTERS)]:
        found = {_difference(path, name) for name in alike.get(_signature(path), ())[:8]}
        votes.update(one for one in found if one is not None)
    best: tuple[Rename, Found] | None = None
    rivals: list[str] = []
    for rename, _ in sorted(votes.items(), key=lambda item: (-item[1], _size(item[0]), str(item[0])))[:16]:
        there = _landing(paths, rename, base)
        if len(there) < min(2, len(paths)) or taken & set(there.values()) or not _one_to_one(there, fits):
            continue
        if best is None or len(there) > len(best[1]):
            best, rivals = (rename, there), []
        elif len(there) == len(best[1]) and there != best[1]:
            rivals.append(str(rename))
    if best is None:
        return None
    return replace(best[0], count=len(best[1]), rivals=tuple(rivals))


def renamed(path: str, rename: Rename) -> str:
    """The path after the rewrite, or as it is where the rewrite does not apply."""
    for one in (rename, *rename.more):
        new = _renamed_by(path, one)
        if new != path:
            return new
    return path


def _renamed_by(path: str, rename: Rename) -> str:
    if rename.steps:
        for old, new in rename.steps:
            path, given = re.sub(old, new, f"{path}.", count=1).removesuffix("."), path
            if rename.whose and path != given:
                break  # each step of remote code sees the whole name, transformers' own follow on each other
        return path
    parts = path.split(".")
    before = rename.old.split(".") if rename.old else []
    after = rename.new.split(".") if rename.new else []
    for at in range(1 if rename.front else len(parts) - len(before) + 1):
        if parts[at : at + len(before)] == before:
            return ".".join(parts[:at] + after + parts[at + len(before) :])
    return path


def _landing(paths: list[str], rename: Rename, base: BaseModules) -> Found:
    """The paths that become modules of the base, with the modules."""
    return {path: name for path in paths if (name := renamed(path, rename)) != path and name in base.modules}


def _one_to_one(there: Found, fits: Fits) -> bool:
    return len(set(there.values())) == len(there) and all(fits(path, name) for path, name in there.items())


def _size(rename: Rename) -> int:
    """How much a rewrite changes, in levels."""
    return sum(len(one.split(".")) for one in (rename.old, rename.new) if one)


def _release(rename: Rename, base: BaseModules, model_type: str) -> str:
    """Which transformers has the old names, where the reason is a rename of its own: measured with 4.51, 4.57 and 5.23.

    Vision-language models held their parts at the top until 4.52; vision models were renamed in 5. A model that got its
    class later never had the old names in transformers: they are those of its own code or checkpoint.
    """
    parts = (rename, *rename.more)
    moved = any(one.old.startswith(("language_model.model", "visual", "vision_tower")) for one in parts)
    if moved and not any(name.startswith("model.language_model.") for name in base.modules):
        return ""
    if not moved and not rename.steps:
        return ""
    if moved or "language_model" in rename.new or "visual" in rename.new:
        return "" if built_in_after(model_type, "4.51") else "transformers<4.52"
    return "" if built_in_after(model_type, "4.57") else "transformers<5"


def _signature(path: str) -> tuple[str, tuple[str, ...]]:
    """What a rewrite leaves alone: the last part, and the numbers along the way."""
    parts = path.split(".")
    return parts[-1], tuple(part for part in parts if part.isdecimal())


def _difference(path: str, name: str) -> Rename | None:
    """The rewrite that turns the path into the name: of its front where that is all, else of one stretch inside."""
    one, other = path.split("."), name.split(".")
    while one and other and one[-1] == other[-1]:
        one.pop()
        other.pop()
    if not any(part.isdecimal() for part in one + other):
        return Rename(".".join(one), ".".join(other), 0, front=True)
    tail = path.split(".")[len(one) :]
    while one and other and one[0] == other[0]:
        one.pop(0)
        other.pop(0)
    if not one:  # a level is missing: the part behind it says where it belongs
        one, other = tail[:1], other + tail[:1]
    if any(part.isdecimal() for part in one + other):
        return None
    return Rename(".".join(one), ".".join(other), 0)


def _library_rename(paths: list[str], base: BaseModules, model_type: str, fits: Fits) -> Rename | None:
    """transformers' own renames for the classes in this model, as one rewrite, where they fit.

    Those of the model's own class see whole names; those of a part are tried too, by themselves and all together, since
    some parts are the model but for a head.
    """
    names = {base.class_name, model_type, *(module.class_name for module in base.modules.values())} - {""}
    own = {name: steps for name in sorted(names) if (steps := _steps(name))}
    together = tuple(step for steps in own.values() for step in steps)
    best: tuple[Rename, Found] | None = None
    for steps in dict.fromkeys([*own.values(), together]):
        rename = Rename("", "", 0, steps=steps)
        there = _landing(paths, rename, base)
        enough = len(there) * 2 > len(paths) and (best is None or len(there) > len(best[1]))
        if enough and _one_to_one(there, fits):
            best = rename, there
    if best is None:
        return None
    rename, there = best
    example = next(iter(there))
    rename = replace(rename, old=example, new=there[example], count=len(there))
    return replace(rename, release=_release(rename, base, model_type))


def _steps(name: str) -> tuple[tuple[str, str], ...]:
    """The renames registered under a class or model type, pattern by pattern."""
    return tuple(
        (source, target)
        for step in knowledge.conversions(name)
        if step.kind == "rename"
        for source, target in zip(step.sources, step.targets * len(step.sources), strict=False)
    )
