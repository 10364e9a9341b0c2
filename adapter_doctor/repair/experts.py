"""Planners for LoRA on stacked experts: taken apart for engines that look each one up, and turned from an old layout."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from adapter_doctor.facts import AdapterConfig, BaseCheckpoint, BaseModules, Comparison, Missing, Shape
from adapter_doctor.formats.adapter_keys import PREFIX
from adapter_doctor.repair.layouts import Pair, keys_of, plain_number, plain_pairs
from adapter_doctor.repair.plan import CannotMend, Case, Step
from adapter_doctor.repair.recipes import Joined, Permuted, Recipe, Rows, Scaled, Zeros
from adapter_doctor.repair.scalings import scaling_of

_SINGLE = re.compile(r"^(?P<stack>.*\.experts)\.0\.(?P<leaf>gate_proj|up_proj|down_proj|w1|w2|w3)\.weight$")
_PARTS = {"gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")), "down_proj": (("down_proj",), ("w2",))}


def unstack(case: Case, code: str) -> Step | None:
    """LoRA on stacked experts as LoRA on each of them, under the names that the base's own files give them.

    lora_A of a stack is (experts · r, in), lora_B (out, r · experts) with the expert as the faster axis, and gate lies
    before up, as `ParamWrapper` and `PeftConcatenate` of PEFT 0.21 have it. PEFT gives all experts one rank and one
    alpha when it stacks them again, so that where these differ, they go into lora_B.
    """
    base, checkpoint = case.facts.get(BaseModules), case.facts.get(BaseCheckpoint)
    pairs = plain_pairs(case)
    stacks = {name: name.removesuffix(".base_layer") for name in pairs if name.endswith((".experts", ".experts.base_layer"))}  # fmt: skip
    if isinstance(base, Missing) or not stacks:
        return None
    if isinstance(checkpoint, Missing):
        raise CannotMend(f"what single experts are called in the base's files is not known: {checkpoint.why}")
    every = keys_of(case, tuple(pairs))
    if left := [name for name in case.draft.tensors if "lora_" in name and name not in every]:
        raise CannotMend(f"{left[0]} is no factor of a plain pair, and would get another scaling")
    named = _names(checkpoint)
    config = AdapterConfig(case.draft.config)
    found = {module: (pair, scaling_of(config, module)) for module, pair in pairs.items() if module not in stacks}
    others = set(found)
    for stack in dict.fromkeys(stacks.values()):
        there = base.modules.get(stack)
        shapes = {name: shape for name, shape in (there.parameters.items() if there else ()) if name in _PARTS}
        mine = {
            _parameter(config, module, pairs, shapes): pairs[module] for module, one in stacks.items() if one == stack
        }
        place, leaves = named.get(_number(stack), ("", frozenset[str]()))
        for parameter, (experts, out, into) in shapes.items():
            parts = next((one for one in _PARTS[parameter] if set(one) <= leaves), None)
            if parts is None:
                raise CannotMend(f"the base's files hold no single experts that {stack} is made of")
            scaling = scaling_of(config, f"{stack}.{parameter if parameter in mine else next(iter(mine))}")
            pair = mine.get(parameter) or _nothing(next(iter(mine.values())), out, into)
            for name, one in _apart(pair, experts, parts):
                found[f"{place}.{name}"] = one, scaling
    alike, rank, alpha = _alike(found)
    makes: dict[str, Recipe] = {}
    for module, (down, up) in alike.items():
        makes |= {f"{PREFIX}{module}.lora_A.weight": down, f"{PREFIX}{module}.lora_B.weight": up}
    settings = {
        "target_modules": sorted(
            _targets(others, base) | {module.rpartition(".")[2] for module in set(alike) - others}
        ),
        "r": rank,
        "lora_alpha": plain_number(alpha),
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    what = f"take the updates of {len(stacks)} stacks of experts apart for {len(found) - len(others)} layers of single ones"
    unset = frozenset({"target_parameters"} & config.raw.keys())
    return Step(code, what, makes=makes, drops=every, settings=settings, unset=unset)


def _targets(modules: set[str], base: BaseModules) -> set[str]:
    """Last names where these stand for just these modules, else whole paths."""
    leaves = {module.rpartition(".")[2] for module in modules}
    same = {name for name, one in base.modules.items() if name.rpartition(".")[2] in leaves and one.width is not None}
    return leaves if same == modules else modules


def _apart(pair: Pair, experts: int, parts: Sequence[str]) -> Iterator[tuple[str, Pair]]:
    """The factors of each expert's parts: all share the expert's lora_A, and each has its own rows of lora_B."""
    down, up = pair
    out, rank = up.shape[0], down.shape[0] // experts
    by_expert = Permuted(up, (out, rank, experts), (2, 0, 1), (experts * out, rank))
    rows = out // len(parts)
    for expert in range(experts):
        own = Rows(down, expert * rank, (expert + 1) * rank)
        for number, leaf in enumerate(parts):
            start = expert * out + number * rows
            yield f"{expert}.{leaf}", (own, Rows(by_expert, start, start + rows))


def _nothing(beside: Pair, out: int, into: int) -> Pair:
    """An update of zeros: engines and PEFT want all parts of an expert or none."""
    whole = beside[0].shape[0]
    return Zeros(beside[0].dtype, (whole, into)), Zeros(beside[1].dtype, (out, whole))


def turn_experts(case: Case) -> Step | None:
    """Factors of stacked experts as PEFT 0.17 to 0.19.0 laid them out, exchanged: it took a parameter's rows for inputs.

    For a parameter (experts, d1, d2) it wrote lora_A (experts · r, d1) and lora_B (d2, r · experts), where from 0.19.1
    on they are (experts · r, d2) and (d1, r · experts); each is the other's transpose, expert by expert.
    """
    base, comparison = case.facts.get(BaseModules), case.facts.get(Comparison)
    if isinstance(base, Missing) or isinstance(comparison, Missing):
        return None
    clashing = {one.key for one in comparison.clashes.get("layout", ())}
    makes: dict[str, Recipe] = {}
    for module, (down, up) in plain_pairs(case).items():
        names = [f"{PREFIX}{module}.lora_{half}.weight" for half in "AB"]
        there = base.modules.get(module.removesuffix(".base_layer"))
        counts = {shape[0] for shape in there.parameters.values() if len(shape) == 3} if there is not None else set()
        if (
            not clashing.issuperset(names)
            or not module.endswith((".experts", ".experts.base_layer"))
            or len(counts) != 1
        ):
            continue
        experts = counts.pop()
        rank = down.shape[0] // experts
        if down.shape[0] != rank * experts or up.shape[1] != rank * experts:
            raise CannotMend(f"{module} has factors of {down.shape} and {up.shape} for {experts} experts")
        (_, rows), (columns, _) = down.shape, up.shape
        makes[names[0]] = Permuted(up, (columns, rank, experts), (2, 1, 0), (experts * rank, columns))
        makes[names[1]] = Permuted(down, (experts, rank, rows), (2, 1, 0), (rows, rank * experts))
    if not makes:
        return None
    what = f"exchange the factors of {len(makes) // 2} stacks of experts, which PEFT 0.17 to 0.19.0 wrote the other way round"
    return Step("AD224", what, makes=makes, drops=frozenset(makes))


def _names(checkpoint: BaseCheckpoint) -> dict[tuple[str, ...], tuple[str, frozenset[str]]]:
    """Path of the experts and what the parts of one are called, by the numbers in the path."""
    leaves: dict[str, set[str]] = {}
    for name in checkpoint.tensors:
        match = _SINGLE.match(name)
        if match is not None:
            leaves.setdefault(match["stack"], set()).add(match["leaf"])
    return {_number(stack): (stack, frozenset(found)) for stack, found in leaves.items()}


def _number(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split(".") if part.isdecimal())


def _parameter(config: AdapterConfig, module: str, pairs: Mapping[str, Pair], there: Mapping[str, Shape]) -> str:
    """The stacked parameter that a pair of factors belongs to, (experts, out, in); PEFT names two by nesting alone."""
    down, up = pairs[module]
    fits = [
        name
        for name, shape in there.items()
        if name in _PARTS and len(shape) == 3 and (up.shape[0], down.shape[1]) == shape[1:]
        and not down.shape[0] % shape[0] and down.shape[0] == up.shape[1]
    ]  # fmt: skip
    if f"{module}.base_layer" in pairs or module.endswith(".base_layer"):
        fits = [name for name in fits if name == ("gate_up_proj" if module.endswith(".base_layer") else "down_proj")]
    else:
        wanted = config.get("target_parameters")
        listed = [str(one) for one in wanted] if isinstance(wanted, list) else []
        fits = [name for name in fits if any(one.endswith(name) for one in listed)]
    if len(fits) != 1:
        raise CannotMend(f"which parameter of the base {module} is for cannot be told")
    return fits[0]


def _alike(found: Mapping[str, tuple[Pair, float]]) -> tuple[dict[str, Pair], int, float]:
    """The factors brought to one rank and one scaling, and the rank and alpha that say so."""
    ranks = {down.shape[0] for (down, _), _ in found.values()}
    scalings = {scaling for _, scaling in found.values()}
    rank = max(ranks)
    if len(ranks) == len(scalings) == 1:
        return {module: pair for module, (pair, _) in found.items()}, rank, scalings.pop() * rank
    made: dict[str, Pair] = {}
    for module, ((down, up), scaling) in found.items():
        missing = rank - down.shape[0]
        down, up = Scaled(down, 1.0), Scaled(up, scaling)
        if missing:
            down = Joined((down, Zeros(down.dtype, (missing, down.shape[1]))))
            up = Joined((up, Zeros(up.dtype, (up.shape[0], missing))), axis=1)
        made[module] = down, up
    return made, rank, float(rank)
