"""Which base an adapter was made for, from the names and shapes of its tensors alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from adapter_doctor import knowledge
from adapter_doctor.facts import AdapterConfig, AdapterTensors, Candidates, Missing
from adapter_doctor.formats.adapter_keys import WRAPPERS
from adapter_doctor.formats.module_widths import ROLES, Width, depth_of, module_widths, pattern_of
from adapter_doctor.knowledge.bases import KnownBase, Span, known_bases

_VOCABULARY_SIDE = {"lm_head": 0, "embed_out": 0, "output_layer": 0}  # elsewhere it is the embedding's second


@dataclass(frozen=True, slots=True)
class Group:
    """The modules of one path with numbers left out: how many, their one width if they agree, how deep they reach."""

    pattern: str
    count: int
    widths: frozenset[Width]
    layers: int


@dataclass(frozen=True)
class Identity:
    """What names and shapes tell of an adapter's base.

    ``sizes`` maps words (hidden size, layers …) to numbers. ``families`` are model types that have all of the adapter's
    modules under their names. ``parameters`` estimates the size of the base's layers, without embeddings; ``whole`` says
    whether the adapter has tensors for all linear layers that such a base has, so that nothing is missing in it.
    """

    groups: tuple[Group, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    parameters: int = 0
    whole: bool = False
    candidates: Candidates = Candidates()  # noqa: RUF009  # frozen


def candidates(tensors: AdapterTensors | Missing, config: AdapterConfig | Missing) -> Candidates:
    """The known bases that the adapter's tensors fit."""
    return identify(tensors, config).candidates if isinstance(tensors, AdapterTensors) else Candidates()


def identify(tensors: AdapterTensors, config: AdapterConfig | Missing) -> Identity:
    """What the adapter's tensors tell of its base; the config says only which layers were left out on purpose."""
    groups = _groups(tensors)
    told = [group for group in groups if any(size for width in group.widths for size in width)]
    fits: dict[str, list[str]] = defaultdict(list)
    if told:
        partial = isinstance(config, AdapterConfig) and _chooses_layers(config)
        for base in known_bases().values():
            how = _fit(groups, base, partial)
            if how:
                fits[how].append(base.id)
    found = Candidates(tuple(fits["exact"]), tuple(fits["vocabulary"]), tuple(fits["renamed"]))
    parameters, whole = _parameters(told)
    return Identity(groups, _sizes(told), _families(groups, found), parameters, whole, found)


def _groups(tensors: AdapterTensors) -> tuple[Group, ...]:
    modules: dict[str, dict[str, Width]] = defaultdict(dict)
    for path, width in module_widths(tensors).items():
        bare = ".".join(part for part in path.split(".") if part not in WRAPPERS)
        while bare.startswith("base_model.model."):
            bare = bare.removeprefix("base_model.model.")
        modules[pattern_of(bare)][bare] = width
    return tuple(
        Group(pattern, len(found), frozenset(found.values()), depth_of(found))
        for pattern, found in sorted(modules.items())
    )


def _chooses_layers(config: AdapterConfig) -> bool:
    """Whether the config adapts some layers only, so that the last one need not have tensors."""
    targets = config.get("target_modules")
    return bool(
        config.get("layers_to_transform") is not None
        or config.get("exclude_modules")
        or (isinstance(targets, str) and targets != "all-linear")
        or (isinstance(targets, list) and any(re.search(r"\.\d+\.", str(one)) for one in targets))
    )


# ------------------------------------------------------------------------------------------------ known bases


def _fit(groups: tuple[Group, ...], base: KnownBase, partial: bool) -> str:
    """How the modules fit a base: `exact`, but for the `vocabulary`, with names `renamed`, or not at all (empty)."""
    direct = [_span(group.pattern, base) for group in groups]
    how = "exact"
    if any(span is None for span in direct):
        by_core = _by_core(base.id)
        direct = [span or by_core.get(core(group.pattern)) for span, group in zip(direct, groups, strict=True)]
        how = "renamed"
    for group, span in zip(groups, direct, strict=True):
        if span is None or not (group.layers == span.layers or (partial and group.layers <= span.layers)):
            return ""
        for width in group.widths:
            if any(_matches(width, there) for there in span.widths):
                continue
            if how == "renamed" or not any(_matches(_but_rows(group, width), there) for there in span.widths):
                return ""
            how = "vocabulary"
    return how


def _span(pattern: str, base: KnownBase) -> Span | None:
    """The base's modules of this path, also under the names that transformers had for them before."""
    return base.modules.get(pattern) or base.modules.get(_renamed(pattern, base.model_type))


@cache
def _renamed(pattern: str, model_type: str) -> str:
    """The path after the renames that transformers makes when it loads a checkpoint of this model type."""
    path = pattern.replace("*", "0") + "."
    for step in knowledge.conversions(model_type):
        if step.kind == "rename":
            for old, new in zip(step.sources, step.targets * len(step.sources), strict=False):
                path = re.sub(old, new, path, count=1)
    return pattern_of(path.removesuffix("."))


def core(pattern: str) -> str:
    """A path without what stands before its list of layers, which differs between a model and its wrappers."""
    head, star, tail = pattern.partition(".*")
    return head.rpartition(".")[2] + star + tail


@cache
def _by_core(name: str) -> dict[str, Span]:
    """A known base's modules by :func:`core`: the language model's where a tower has the same, since it is deeper."""
    found: dict[str, Span] = {}
    for pattern, span in known_bases()[name].modules.items():
        known = found.get(core(pattern))
        if known is None or span.layers > known.layers:
            found[core(pattern)] = span
    return found


def _matches(width: Width, there: tuple[int, int]) -> bool:
    return all(own in (None, size) for own, size in zip(width, there, strict=True))


def _but_rows(group: Group, width: Width) -> Width:
    """The width with the vocabulary's rows left open, for modules outside of the layers."""
    if "*" in group.pattern:
        return width
    side = _VOCABULARY_SIDE.get(group.pattern.rpartition(".")[2], 1)
    return (None, width[1]) if side == 0 else (width[0], None)


# ------------------------------------------------------------------------------------------------ any base


def _families(groups: tuple[Group, ...], found: Candidates) -> tuple[str, ...]:
    """Model types that have every module: those of the fitting bases if any, else all with such names."""
    bases = known_bases()
    fitting = found.exact or found.but_vocabulary or found.renamed
    if fitting or not groups:
        return tuple(sorted({bases[name].model_type for name in fitting}))
    whole = {one.model_type for one in bases.values() if all(_span(group.pattern, one) for group in groups)}
    cores = {core(group.pattern) for group in groups}
    return tuple(sorted(whole or {one.model_type for one in bases.values() if cores <= _by_core(one.id).keys()}))


def _sizes(groups: list[Group]) -> dict[str, int]:
    """Sizes by name, as the adapter's modules tell them; of several towers, those of the deepest."""
    found: dict[str, int] = {}
    deepest = max(groups, key=lambda group: group.layers, default=None)
    for group in groups:
        leaf = group.pattern.rpartition(".")[2]
        out, into = sorted(group.widths, key=str)[0]
        here = deepest is not None and core(group.pattern).partition("*")[0] == core(deepest.pattern).partition("*")[0]
        if (here or "*" not in group.pattern) and "expert" not in group.pattern:
            for role, size in zip(ROLES.get(leaf, ("", "")), (out, into), strict=True):
                if role and size:
                    found.setdefault(role, size)
    if deepest is not None and deepest.layers:
        found["layers"] = deepest.layers
    return dict(sorted(found.items()))


def _parameters(groups: list[Group]) -> tuple[int, bool]:
    """Parameters in the adapted layers, and whether these are all linear layers that some known base has there."""
    counted = [group for group in groups if "*" in group.pattern and len(group.widths) == 1]
    total = sum(group.count * (out or 0) * (into or 0) for group in counted for out, into in group.widths)
    mine = {core(group.pattern) for group in counted if all(None not in width for width in group.widths)}
    whole = any(mine == {core(pattern) for pattern in one.modules if "*" in pattern} for one in known_bases().values())
    return total, whole
