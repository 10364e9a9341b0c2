"""Planners for layers that are split in the adapter and fused in the base, or the other way round; exactly, or not at all."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from adapter_doctor.facts import AdapterConfig, AdapterTensors, BaseConfig, BaseModules, Comparison, Fused, Missing
from adapter_doctor.formats.adapter_keys import PREFIX, parse
from adapter_doctor.knowledge.remote_code import STACKED
from adapter_doctor.repair.plan import CannotMend, Case, Step
from adapter_doctor.repair.recipes import Diagonal, Joined, Permuted, Recipe, Rows, Zeros, count
from adapter_doctor.repair.scalings import scaling_of

_EXPERT = re.compile(r"^(?P<stack>.*\.experts)\.(?P<number>\d{1,6})\.(?P<leaf>gate_proj|up_proj|down_proj|w1|w2|w3)$")
_ROLES = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down", "w2": "down"}
Pair = tuple[Recipe, Recipe]


def fuse(case: Case) -> Step | None:
    """Updates of split layers as one of the fused layer: factors stacked, and block by block, of the summed rank."""
    base, pairs = case.facts.get(BaseModules), plain_pairs(case)
    if isinstance(base, Missing):
        return None
    layers = dict(_remote(case, in_adapter=False))
    for module in pairs:
        parent, _, leaf = module.rpartition(".")
        for whole, leaves in STACKED.items():
            if leaf in leaves and f"{parent}.{whole}" in base.modules:
                layers.setdefault(f"{parent}.{whole}", Fused(tuple(f"{parent}.{one}" for one in leaves)))
    config = AdapterConfig(case.draft.config)
    made: dict[str, Pair] = {}
    alphas: dict[str, float] = {}
    gone: list[str] = []
    for whole, layer in layers.items():
        found = [part for part in layer.parts if part in pairs and part not in base.modules]
        if not found:
            continue
        sizes = _sizes(case, base, whole, layer.parts, {part: pairs[part][1].shape[0] for part in found})
        own = [pairs[part] if part in found else None for part in layer.parts]
        scaling = _one_scaling(config, found)
        downs = tuple(pair[0] for pair in own if pair is not None)
        ups = [
            pair[1] if pair is not None else Zeros(pairs[found[0]][1].dtype, (size, 0)) for pair, size in zip(own, sizes, strict=True)
        ]  # fmt: skip
        up: Recipe = Diagonal(tuple(ups))
        if layer.grouped:
            heads, size = _heads(case, sizes)
            ups[0] = _turned(ups[0], heads, sizes[0] // size // heads)
            up = _turned(Diagonal(tuple(ups)), sum(sizes) // size // heads, heads)
        made[whole] = Joined(downs), up
        alphas[whole] = _alpha(config, scaling, sum(down.shape[0] for down in downs))
        gone += found
    if not made:
        return None
    what = f"put the updates of {len(gone)} split layers together for {len(made)} fused ones, of their summed rank"
    return _step(case, what, made, gone, alphas)


def split(case: Case) -> Step | None:
    """The update of a fused layer for each of its parts: the same down factor, the part's own rows of the other.

    DoRA divides each row by its own norm (`get_weight_norm` in tuners/lora/dora.py), so that it is taken apart alike.
    """
    base, pairs, magnitudes = case.facts.get(BaseModules), plain_pairs(case, dora=True), _magnitudes(case)
    if isinstance(base, Missing):
        return None
    remote = _remote(case, in_adapter=True)
    config = AdapterConfig(case.draft.config)
    made: dict[str, Pair] = {}
    alphas: dict[str, float] = {}
    others: dict[str, Recipe] = {}
    gone = []
    for module, (down, up) in pairs.items():
        parent, _, leaf = module.rpartition(".")
        layer = remote.get(module) or Fused(tuple(f"{parent}.{part}" for part in STACKED.get(leaf, ())))
        if module in base.modules or not layer.parts or not all(part in base.modules for part in layer.parts):
            continue
        widths = [base.modules[part].width for part in layer.parts]
        sizes = [width[0] for width in widths if width is not None]
        if sum(sizes) != up.shape[0] or len(sizes) != len(layer.parts):
            raise CannotMend(f"{module} has {up.shape[0]} rows, its parts in the base {' + '.join(map(str, sizes))}")
        heads = _heads(case, sizes) if layer.grouped else None
        if any(part in made for part in layer.parts):
            raise CannotMend(f"{module} and another fused layer are both taken for {', '.join(layer.parts)}")
        for part, own in zip(layer.parts, _apart(up, sizes, heads), strict=True):
            made[part] = down, own
            alphas[part] = _alpha(config, scaling_of(config, module), down.shape[0])
        if module in magnitudes:
            tail, magnitude = magnitudes[module]
            if magnitude.shape != up.shape[:1]:
                raise CannotMend(f"{module} has a magnitude of shape {list(magnitude.shape)}, expected [{up.shape[0]}]")
            for part, own in zip(layer.parts, _apart(magnitude, sizes, heads), strict=True):
                others[f"{PREFIX}{part}.{tail}"] = own
        gone.append(module)
    if not made:
        return None
    if names := _untrained_targets(case):
        raise CannotMend(
            f"`target_modules` names {', '.join(names)}, which no tensor is of: the file may be half of an adapter"
        )
    what = f"take the updates of {len(gone)} fused layers apart for {len(made)} split ones"
    return _step(case, what, made, gone, alphas, others)


def _untrained_targets(case: Case) -> list[str]:
    """Targets that are modules of the code that the adapter was trained on, and of which it has no tensor."""
    comparison, config, tensors = (
        case.facts.get(Comparison),
        case.facts.get(AdapterConfig),
        case.facts.get(AdapterTensors),
    )
    if isinstance(comparison, Missing) or isinstance(config, Missing) or isinstance(tensors, Missing):
        return []
    targets = config.get("target_modules")
    if comparison.remote is None or not isinstance(targets, list):
        return []
    keys = {
        *tensors,
        *(key for step in case.draft.steps for key in step.renames),
    }  # renamed by now, under their old names
    trained = {one.module.rpartition(".")[2] for key in keys if (one := parse(key)) is not None}
    known = comparison.remote.leaves
    return sorted({one for one in targets if isinstance(one, str) and one.rpartition(".")[2] in known - trained})


def _apart(fused: Recipe, sizes: Sequence[int], heads: tuple[int, int] | None) -> list[Recipe]:
    """The rows of each part; ``heads`` are number and size of the key/value heads where the rows are grouped by them."""
    if heads is not None:
        fused = _turned(fused, heads[0], sum(sizes) // heads[1] // heads[0])
    start, parts = 0, list[Recipe]()
    for rows in sizes:
        parts.append(Rows(fused, start, start + rows))
        start += rows
    if heads is not None:
        parts[0] = _turned(parts[0], sizes[0] // heads[1] // heads[0], heads[0])
    return parts


def _remote(case: Case, *, in_adapter: bool) -> Mapping[str, Fused]:
    """The fused layers of a model's remote code, where its names are those of the adapter, or of the base."""
    comparison = case.facts.get(Comparison)
    remote = comparison.remote if isinstance(comparison, Comparison) else None
    return remote.fused if remote is not None and remote.in_adapter == in_adapter else {}


def _heads(case: Case, sizes: Sequence[int]) -> tuple[int, int]:
    """Number and size of the key/value heads, for a fused layer whose query, key and value have these rows."""
    config = case.facts.get(BaseConfig)
    heads = config.number("num_key_value_heads", "num_attention_heads") if isinstance(config, BaseConfig) else None
    query, key, value = sizes
    if not heads or key != value or key % heads or query % key:
        raise CannotMend(f"how {query} + {key} + {value} rows are those of heads cannot be told from the base's config")
    return heads, key // heads


def _turned(tensor: Recipe, many: int, each: int) -> Recipe:
    """The rows of a tensor that are ``many`` times ``each`` blocks, with the blocks counted the other way round."""
    return Permuted(tensor, (many, each, count(tensor) // (many * each)), (1, 0, 2), tensor.shape)


def stack_experts(case: Case) -> Step | None:
    """Updates of single experts as LoRA on the stacked parameters that transformers 5 holds them in.

    lora_A is (experts · r, in), lora_B (out, r · experts), and gate and up share one parameter: their factors lie in
    blocks, as `PeftConcatenate` and `ParamWrapper` of PEFT 0.21 have them.
    """
    comparison = case.facts.get(Comparison)
    if isinstance(comparison, Missing) or not comparison.strays.get("experts"):
        return None
    return stacked(case, "AD319")


def stacked(case: Case, code: str) -> Step | None:
    """The step of :func:`stack_experts`, whether or not PEFT loses the single experts; it mends what ``code`` found."""
    base = case.facts.get(BaseModules)
    if isinstance(base, Missing):
        return None
    pairs = plain_pairs(case)
    stacks: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for module in pairs:
        match = _EXPERT.match(module)
        if match is not None:
            stacks[match["stack"]][_ROLES[match["leaf"]]][int(match["number"])] = module
    config = AdapterConfig(case.draft.config)
    makes: dict[str, Recipe] = {}
    wanted: dict[str, tuple[int, float]] = {}
    gone = [module for roles in stacks.values() for numbered in roles.values() for module in numbered.values()]
    scaling = _one_scaling(config, gone)
    for stack, roles in stacks.items():
        there = base.modules.get(stack)
        own = tuple(there.parameters) if there is not None else ()
        groups = {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)}
        touched = [name for name in own if any(role in roles for role in groups.get(name, ()))]
        if there is None or set(roles) - {role for name in touched for role in groups[name]}:
            raise CannotMend(f"{stack} of the base has no stacked `gate_up_proj` and `down_proj`")
        for number, name in enumerate(touched):
            ranked = [[pairs[roles[role][one]] for role in groups[name]] for one in _whole(roles, groups[name], there.parameters[name][0], stack)]  # fmt: skip
            down, up, rank = _stacked(ranked)
            path = f"{PREFIX}{stack}{'.base_layer' * (len(touched) - 1 - number)}"
            makes |= {f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up}
            if wanted.setdefault(name, (rank, 0.0))[0] != rank:
                raise CannotMend(f"the experts of {stack} have another rank than those of other layers")
            wanted[name] = rank, _alpha(config, scaling, rank)
    if not makes:
        return None
    ranks = {f"experts.{name}": rank for name, (rank, _) in wanted.items()}
    alphas = {f"experts.{name}": plain_number(alpha) for name, (_, alpha) in wanted.items()}
    others = {one.module for one in map(parse, case.draft.tensors) if one is not None} - set(gone)
    targets = sorted({module.rpartition(".")[2] for module in others})
    if set(targets) & set(_ROLES):
        targets = sorted(others)  # PEFT would take their names for those of experts
    settings: dict[str, Any] = {
        "target_parameters": sorted(ranks),
        "rank_pattern": ranks | _pattern(config, "rank_pattern"),
        "alpha_pattern": alphas | _pattern(config, "alpha_pattern"),
        "target_modules": targets or None,
        "lora_dropout": 0.0,  # PEFT refuses dropout on parameters; it acts in training only
    }
    what = f"stack the updates of {len(gone)} layers of single experts for the {len(makes) // 2} parameters that hold them all"  # fmt: skip
    return Step(code, what, makes=makes, drops=keys_of(case, gone), settings=settings)


def _stacked(experts: Sequence[Sequence[Pair]]) -> tuple[Recipe, Recipe, int]:
    """Both factors of a stacked parameter, and the rank of each expert in it."""
    downs, ups = [], []
    for pairs in experts:
        downs += [down for down, _ in pairs]
        ups.append(Diagonal(tuple(up for _, up in pairs)) if len(pairs) > 1 else pairs[0][1])
    if len({up.shape for up in ups}) != 1:
        raise CannotMend("the experts of a layer have several ranks")
    out, rank = ups[0].shape
    whole = Permuted(Joined(tuple(ups)), (len(ups), out, rank), (1, 2, 0), (out, rank * len(ups)))
    return Joined(tuple(downs)), whole, rank


def _whole(roles: Mapping[str, Mapping[int, str]], needed: Sequence[str], count: int, stack: str) -> range:
    """The numbers of the experts, all of which must be there in every role."""
    for role in needed:
        if set(roles.get(role, ())) != set(range(count)):
            raise CannotMend(f"{stack} has {count} experts, and {len(roles.get(role, ()))} have tensors of `{role}`")
    return range(count)


# --------------------------------------------------------------------------------------------------------- the parts


def plain_pairs(case: Case, dora: bool = False) -> dict[str, Pair]:
    """The two factors by module, for modules that have nothing else; none where the method is not plain LoRA.

    With ``dora``, those of DoRA count too, which have a magnitude beside them.
    """
    is_dora = bool(case.draft.config.get("use_dora"))
    if case.draft.config.get("peft_type") != "LORA" or (is_dora and not dora):
        return {}
    found: dict[str, dict[str, Recipe]] = defaultdict(dict)
    for key, recipe in case.draft.tensors.items():
        one = parse(key)
        if one is not None and one.module and not (is_dora and one.parameter == "lora_magnitude_vector"):
            found[one.module][one.parameter + one.tail] = recipe
    names = {"lora_A.weight", "lora_B.weight"}
    return {
        module: (own["lora_A.weight"], own["lora_B.weight"])
        for module, own in found.items()
        if own.keys() == names and all(len(one.shape) == 2 for one in own.values())
    }


def _magnitudes(case: Case) -> dict[str, tuple[str, Recipe]]:
    """DoRA's magnitude by module, with what the name of its tensor ends in."""
    parsed = ((parse(key), recipe) for key, recipe in case.draft.tensors.items())
    return {
        one.module: (one.parameter + one.tail, recipe)
        for one, recipe in parsed
        if one is not None and one.parameter == "lora_magnitude_vector"
    }


def _sizes(case: Case, base: BaseModules, whole: str, parts: Sequence[str], known: Mapping[str, int]) -> list[int]:
    """Rows of each part of a fused layer, by the parts that are there and, for the others, the base's heads."""
    width = base.modules[whole].width
    total = width[0] if width is not None else 0
    config = case.facts.get(BaseConfig)
    if len(known) == len(parts):
        sizes = [known[part] for part in parts]
    elif len(parts) == 2:
        sizes = [total // 2, total // 2]
    else:
        heads = config.number("num_attention_heads") if isinstance(config, BaseConfig) else None
        others = config.number("num_key_value_heads", "num_attention_heads") if isinstance(config, BaseConfig) else None
        if not heads or not others or total % (heads + 2 * others):
            raise CannotMend(f"how the {total} rows of {whole} are shared out cannot be told")
        size = total // (heads + 2 * others)
        sizes = [heads * size, others * size, others * size]
    if sum(sizes) != total or any(known.get(part, size) != size for part, size in zip(parts, sizes, strict=True)):
        raise CannotMend(f"{whole} has {total} rows, and the parts in the file {' + '.join(map(str, known.values()))}")
    return sizes


def _one_scaling(config: AdapterConfig, modules: Any) -> float:
    found = {scaling_of(config, module) for module in modules}
    if len(found) > 1:
        raise CannotMend(
            f"layers that become one have several scalings ({', '.join(f'{one:g}' for one in sorted(found)[:3])})"
        )
    return found.pop() if found else 1.0


def _alpha(config: AdapterConfig, scaling: float, rank: int) -> float:
    """The alpha that gives this scaling at this rank."""
    return scaling * (math.sqrt(rank) if config.get("use_rslora") else rank)


def _step(
    case: Case,
    what: str,
    made: Mapping[str, Pair],
    gone: Sequence[str],
    alphas: Mapping[str, float],
    others: Mapping[str, Recipe] = MappingProxyType({}),
) -> Step:
    makes: dict[str, Recipe] = dict(others)
    for module, (down, up) in made.items():
        makes |= {f"{PREFIX}{module}.lora_A.weight": down, f"{PREFIX}{module}.lora_B.weight": up}
    config = AdapterConfig(case.draft.config)
    by_leaf: dict[str, set[float]] = defaultdict(set)
    for module, alpha in alphas.items():
        by_leaf[module.rpartition(".")[2]].add(alpha)
    named = {
        (leaf if len(by_leaf[leaf]) == 1 else module): plain_number(alpha)
        for module, alpha in alphas.items()
        for leaf in [module.rpartition(".")[2]]
    }
    settings: dict[str, Any] = {"alpha_pattern": named | _pattern(config, "alpha_pattern")}
    targets = config.get("target_modules")
    if isinstance(targets, list):
        leaves = {module.rpartition(".")[2] for module in gone}
        settings["target_modules"] = [one for one in targets if one not in leaves and one not in gone]
    comparison = case.facts.get(Comparison)
    remote = isinstance(comparison, Comparison) and comparison.remote is not None
    return Step("AD312", what, makes=makes, drops=keys_of(case, gone), settings=settings, other_tree=remote)


def keys_of(case: Case, modules: Sequence[str]) -> frozenset[str]:
    """The draft's tensors of these modules."""
    there = set(modules)
    return frozenset(key for key in case.draft.tensors if (one := parse(key)) is not None and one.module in there)


def _pattern(config: AdapterConfig, name: str) -> dict[str, Any]:
    value = config.get(name)
    return dict(value) if isinstance(value, Mapping) else {}


def plain_number(value: float) -> float | int:
    """A number as people write it: without a fraction where it has none."""
    return int(value) if float(value).is_integer() else value
