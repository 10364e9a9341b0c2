"""Tell whether an adapter's module names and the base's are those of one model's remote code and of its built-in class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapter_doctor.facts import BaseModules, Fused, Module, RemoteCode, Rename
from adapter_doctor.formats.module_widths import Width, depth_of
from adapter_doctor.knowledge.bases import copies, known_as, known_bases
from adapter_doctor.knowledge.remote_code import Pattern, RemoteModel, filled, match, remote_models

MOST_FRONTS = 8
"""Places in the base where modules of one kind may stand: a model, its towers and what joins them."""
MOST_PARTS = 64
"""Parts of a module path; no model nests so deep."""
Fits = Callable[[str, str], bool]


@dataclass(frozen=True)
class Recognised:
    """Whose names they are, and the rename that is part of it, if any."""

    code: RemoteCode
    rename: Rename | None


def recognise(
    paths: Iterable[str],
    base: BaseModules,
    model_type: str,
    fits: Fits,
    widths: Mapping[str, Sequence[Width]],
    named: str = "",
) -> Recognised | None:
    """The model whose two sets of names account for more than half of ``paths``, which the base does not have.

    ``fits(path, module)`` tells whether the tensors of a path have the widths of a module, ``widths`` what each tensor
    of a path tells of them, ``named`` is the base in the adapter's config. Only bases of the right model type are looked
    at, since such names are common.
    """
    split = {path: path.split(".") for path in sorted(set(paths)) if path.count(".") < MOST_PARTS}
    modules = {name: name.split(".") for name in base.modules if name}
    for model in remote_models():
        if model.named and not any(one in named.lower() for one in model.named):
            continue
        if not model.since and _of_another_kind(named, model):
            continue
        for in_adapter in (True, False):
            if model_type in (model.built_in if in_adapter else model.types):
                found = _Attempt(model, in_adapter, split, modules, base, fits, widths).outcome()
                if found is not None:
                    return found
    return None


def _of_another_kind(named: str, model: RemoteModel) -> bool:
    """Whether the base that an adapter names is a known one of another model type than a copy of this model has."""
    known = known_as(named)
    base = known_bases().get(copies().get(known, known)) if known is not None else None
    return base is not None and base.model_type not in model.types


def known_names(patterns: Iterable[str], families: Sequence[str], named: str = "") -> tuple[RemoteModel, ...]:
    """The models whose remote code has modules of all these paths, in which `*` stands for a number.

    ``families`` are the model types that are known to have them: if there are any, only remote code of these types
    counts, and if not, some of the paths must be more than an `mlp.fc2`, which many have. Earlier classes of
    transformers' own are left out. ``named`` is the base in the adapter's config.
    """
    paths = [path.replace("*", "0").split(".") for path in patterns]
    found = []
    for model in remote_models():
        strange = [*(old for old, new in model.renames if old[-2:] != new[-2:]), *(one.remote for one in model.fusions)]
        if not model.types or (families and not set(families) & (set(model.types) - set(model.built_in))):
            continue
        if model.named and not any(one in named.lower() for one in model.named):
            continue
        own = [*(old for old, _ in model.renames), *strange]
        if all(_has(path, own) for path in paths) and (families or any(_has(path, strange) for path in paths)):
            found.append(model)
    return tuple(found)


def _has(path: list[str], patterns: Iterable[Pattern]) -> bool:
    return any(match(path, pattern) is not None for pattern in patterns)


@dataclass(frozen=True)
class _Attempt:
    """One model of the table, in one direction: the remote code's names are in the adapter, or else in the base."""

    model: RemoteModel
    in_adapter: bool
    paths: Mapping[str, list[str]]
    modules: Mapping[str, list[str]]
    base: BaseModules
    fits: Fits
    widths: Mapping[str, Sequence[Width]]

    def outcome(self) -> Recognised | None:
        fused = self._fused()
        in_fused = {path for whole, one in fused.items() for path in ((whole,) if self.in_adapter else one.parts)}
        rename = self._rename(in_fused)
        explained = len(in_fused & self.paths.keys()) + (rename.count if rename is not None else 0)
        if not explained or explained * 2 <= len(self.paths):
            return None
        model = self.model
        if not model.since and depth_of(self.paths) not in self.base.layer_counts.values():
            return None  # any model may be copied into this layout, and GPT-2, too, has an `attn.c_attn`
        code = RemoteCode(
            model.whose, model.built_in[0], model.since, self.in_adapter, model.repository, model.converted, model.load,
            model.needs, fused, self._leaves(),
        )  # fmt: skip
        return Recognised(code, rename)

    def _leaves(self) -> frozenset[str]:
        paths = [pair[0 if self.in_adapter else 1] for pair in self.model.renames]
        for fusion in self.model.fusions:
            paths += [fusion.remote] if self.in_adapter else fusion.parts
        return frozenset(path[-1] for path in paths) - {"**"}

    # ---------------------------------------------------------------------------------------------- renames

    def _rename(self, taken: set[str]) -> Rename | None:
        """The rename of the paths that are one layer on both sides, as steps that see a path with a dot behind it."""
        steps: list[tuple[str, str]] = []
        there: dict[str, str] = {}
        for pair in self.model.renames:
            old, new = pair if self.in_adapter else pair[::-1]
            found = {path: hit for path, parts in self.paths.items()
                     if path not in taken and path not in there and (hit := match(parts, old)) is not None}  # fmt: skip
            front, landing = self._landing({path: stars for path, (_, stars) in found.items()}, new)
            if landing:
                steps.append((_expression(old), _replacement(front, new)))
                there |= landing
        if not there or len(set(there.values())) < len(there):
            return None
        example, name = next(iter(there.items()))
        return Rename(example, name, len(there), steps=tuple(steps), whose=self.model.whose)

    def _landing(self, found: Mapping[str, list[str]], pattern: Pattern) -> tuple[str, dict[str, str]]:
        """What stands before the pattern in the base where most of the paths land and fit, and where they land."""
        best: tuple[str, dict[str, str]] = "", {}
        for front in self._fronts(pattern) if found else ():
            there = {path: f"{front}{filled(pattern, stars)}" for path, stars in found.items()}
            landing = {
                path: name for path, name in there.items() if name in self.base.modules and self.fits(path, name)
            }
            if len(landing) > len(best[1]):
                best = front, landing
        return best

    def _fronts(self, pattern: Pattern) -> list[str]:
        """What stands before such paths in the base, the most frequent first."""
        fronts: Counter[str] = Counter()
        for parts in self.modules.values():
            hit = match(parts, pattern)
            if hit is not None:
                fronts[_front(parts, hit[0])] += 1
        return [front for front, _ in fronts.most_common(MOST_FRONTS)]

    # --------------------------------------------------------------------------------------- fused layers

    def _fused(self) -> dict[str, Fused]:
        """Layers that are fused on one side, by their path there, with the paths of their parts on the other."""
        found: dict[str, Fused] = {}
        for fusion in self.model.fusions:
            if self.in_adapter:
                wholes = {path: hit[1] for path, parts in self.paths.items() if (hit := match(parts, fusion.remote))}
                for front in self._fronts(fusion.parts[0]) if wholes else ():
                    for whole, stars in wholes.items():
                        names = tuple(f"{front}{filled(part, stars)}" for part in fusion.parts)
                        own = [self.base.modules[name] for name in names if name in self.base.modules]
                        if len(own) == len(names) and self._is_sum(whole, own):
                            found.setdefault(whole, Fused(names, fusion.grouped))
                continue
            fronts = {_front(parts, hit[0]) for parts in self.paths.values() for part in fusion.parts
                      if (hit := match(parts, part)) is not None}  # fmt: skip
            for whole, path in self.modules.items():
                here = match(path, fusion.remote)
                for front in sorted(fronts)[:MOST_FRONTS] if here is not None else ():
                    names = tuple(f"{front}{filled(part, here[1])}" for part in fusion.parts)  # type: ignore[index]
                    if any(name in self.paths for name in names) and self._are_parts(names, self.base.modules[whole]):
                        found.setdefault(whole, Fused(names, fusion.grouped))
        return found

    def _is_sum(self, whole: str, parts: Sequence[Module]) -> bool:
        """Whether the tensors of a fused path have the rows of all its parts together."""
        widths = [part.width for part in parts if part.width is not None]
        if len(widths) < len(parts):
            return False
        rows, into = sum(out for out, _ in widths), widths[0][1]
        return all(own in (None, rows) and size in (None, into) for own, size in self.widths.get(whole, ()))

    def _are_parts(self, names: Sequence[str], whole: Module) -> bool:
        """Whether the tensors of the parts could be of one fused layer of the base."""
        if whole.width is None:
            return False
        rows, into = whole.width
        told = [width for name in names for width in self.widths.get(name, ())]
        return all((own is None or own < rows) and size in (None, into) for own, size in told)


def _front(parts: Sequence[str], start: int) -> str:
    return "".join(f"{part}." for part in parts[:start])


def _expression(pattern: Pattern) -> str:
    """A regular expression for paths that end as the pattern, with a dot behind them."""
    if pattern[-1] == "**":
        return rf"^(?:.*?\.)?{''.join(map(_one, pattern[:-1]))}(.+)\.$"
    front = "" if len(pattern) == 1 else r"(?:.*\.)?"
    return rf"^{front}{''.join(map(_one, pattern))}$"


def _one(part: str) -> str:
    return r"(\d+)\." if part == "*" else re.escape(part) + r"\."


def _replacement(front: str, pattern: Pattern) -> str:
    numbers = iter(range(1, 10))
    parts = [rf"\{next(numbers)}" if part in ("*", "**") else part for part in pattern]
    return f"{front.replace(chr(92), chr(92) * 2)}{'.'.join(parts)}."
