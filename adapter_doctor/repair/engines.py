"""Planners for one serving engine: an equal adapter, without the traits that the engine does not honour.

Each planner mends one trait, and proposes its step only while the engine's profile says that the trait is not served.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from adapter_doctor import knowledge
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterFolder,
    AdapterTensors,
    BaseConfig,
    BaseCopies,
    BaseModules,
    Missing,
    WeightsFiles,
)
from adapter_doctor.formats.adapter_keys import PREFIX
from adapter_doctor.knowledge.profiles import Profile
from adapter_doctor.repair.experts import unstack
from adapter_doctor.repair.layouts import stacked
from adapter_doctor.repair.plan import CannotMend, Case, Planner, Step
from adapter_doctor.repair.recipes import Joined, Recipe, Scaled, Zeros
from adapter_doctor.repair.scalings import scaling_of
from adapter_doctor.serving.case import Case as Served
from adapter_doctor.serving.case import parameter_name
from adapter_doctor.serving.foresee import foresee
from adapter_doctor.serving.scaling import padded

Same = Callable[[Iterable[str]], Collection[str]]
"""Which of the named tensors hold what the base's own weights hold, byte for byte."""

_TROUBLES = {"refused": "AD701", "wrong": "AD702", "late": "AD703"}
_FLOATS = ("F16", "BF16", "F32", "F64")


def planners(profile: Profile, version: str | None, same: Same) -> tuple[Planner, ...]:
    """The planners for an engine at a version, in the order in which they are asked."""

    def when(traits: tuple[str, ...], mend: Callable[[Case, Served, str], Step | None]) -> Planner:
        def planner(case: Case) -> Step | None:
            served = _served(case)
            if isinstance(served, Missing):
                return None
            effects = foresee(profile, version, served).effects
            codes = {one.trait: _TROUBLES[one.outcome] for one in effects if one.outcome in _TROUBLES}
            found = next((codes[one] for one in traits if one in codes), None)
            return mend(case, served, found) if found is not None else None

        return planner

    def drop(case: Case, _served: Served, code: str) -> Step | None:
        return _drop_same(case, code, same)

    def bake(case: Case, served: Served, code: str) -> Step | None:
        return _bake(case, served, code, padded if any(one.pads for one in profile.scalings) else None)

    def apart(case: Case, _served: Served, code: str) -> Step | None:
        answer = profile.answer("per-expert", version or profile.read[-1])
        return unstack(case, code) if answer is not None and answer.outcome in ("served", "unknown") else None

    return (
        when(("stacked-experts", "experts-layout"), apart),
        when(("experts-layout",), lambda case, _, code: stacked(case, code)),
        when(("target-pattern", "target-null"), _write_targets_out),
        when(("modules-to-save", "saved-head", "saved-embeddings", "base-copies"), drop),
        when(("q-without-v", "v-without-q"), _fill_pairs),
        when(("some-layers",), _fill_layers),
        when(("scaling", "uneven-ranks", "padded-rank", "fractional-alpha", "own-format"), bake),
    )


def one_scaling(case: Case) -> Step | None:
    """For a format that has one rank and one scaling for all modules."""
    served = _served(case)
    if isinstance(served, Missing):
        return None
    ranks = {served.rank(module) for module in served.pairs}
    scalings = {_scaling(served, module) for module in served.pairs}
    return _bake(case, served, "AD701", None) if len(ranks) > 1 or len(scalings) > 1 else None


def _served(case: Case) -> Served | Missing:
    base = case.facts.get(BaseConfig)
    if isinstance(base, Missing):
        return base
    facts = case.draft.facts(case.facts)
    config, tensors = facts.get(AdapterConfig), facts.get(AdapterTensors)
    assert isinstance(config, AdapterConfig)
    assert isinstance(tensors, AdapterTensors)
    rest = (facts.get(BaseModules), facts.get(AdapterFolder), facts.get(WeightsFiles), facts.get(BaseCopies))
    return Served(config, tensors, base, *rest)


# ------------------------------------------------------------------------------------------------- scaling and ranks


def _bake(case: Case, served: Served, code: str, pad: Callable[[int], int] | None) -> Step | None:
    """Put every module's scaling into `lora_B`, and every rank up to the largest with zeros: r = lora_alpha then."""
    pairs = served.pairs
    if any(len(halves) < 2 for halves in pairs.values()):
        raise CannotMend("half of a LoRA pair is missing, so its scaling cannot be put into the other half")
    if any(module.endswith((".experts", ".experts.base_layer")) for module in pairs):
        raise CannotMend("LoRA on stacked experts keeps the experts' ranks in one tensor, which is not padded here")
    rank = max(map(served.rank, pairs), default=0)
    rank = pad(rank) if pad is not None else rank
    makes: dict[str, Recipe] = {}
    for module, halves in pairs.items():
        factor = _scaling(served, module)
        down, up = case.draft.tensors[halves["A"]], case.draft.tensors[halves["B"]]
        if {down.dtype, up.dtype} - set(_FLOATS):
            raise CannotMend(f"{module} is stored as {up.dtype}, which is not multiplied here")
        if factor != 1:
            down, up = (down if down.dtype == "F32" else Scaled(down, 1.0)), Scaled(up, factor)
            bias = halves["B"].removesuffix(".weight") + ".bias"
            if bias in case.draft.tensors:
                makes[bias] = Scaled(case.draft.tensors[bias], factor)
        missing = rank - down.shape[0]
        if missing:
            down = Joined((down, Zeros(down.dtype, (missing, *down.shape[1:]))))
            up = Joined((up, Zeros(up.dtype, (up.shape[0], missing, *up.shape[2:]))), axis=1)
        makes |= {halves["A"]: down, halves["B"]: up}
    made = {name: one for name, one in makes.items() if one is not case.draft.tensors[name]}
    settings: dict[str, Any] = {
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    if not made and all(case.draft.config.get(name) == value for name, value in settings.items()):
        return None
    what = f"put the scaling into `lora_B` of {len(pairs)} modules, all of rank {rank}, with lora_alpha {rank}"
    return Step(code, what, makes=made, drops=frozenset(made), settings=settings)


def _scaling(served: Served, module: str) -> float:
    return scaling_of(served.config, parameter_name(module))


# --------------------------------------------------------------------------------------------- what is targeted


def _write_targets_out(case: Case, served: Served, code: str) -> Step | None:
    """`target_modules` as a list of the modules that have tensors."""
    settings = _targets(set(served.pairs), served)
    what = f"write `target_modules` out: {', '.join(settings['target_modules'][:6])}"
    return Step(code, what, settings=settings, unset=_narrowing(case))


def _fill_pairs(case: Case, served: Served, code: str) -> Step | None:
    """Add what the engine fuses with a module that is there: a zero update changes nothing."""
    wanted = set()
    for module in served.pairs:
        parent, _, leaf = module.rpartition(".")
        partners = {
            "q_proj": ("v_proj",),
            "k_proj": ("q_proj", "v_proj"),
            "v_proj": ("q_proj",),
            "up_proj": ("gate_proj",),
        }
        wanted |= {f"{parent}.{one}" for one in partners.get(leaf, ())}
    return _with_zeros(case, served, code, wanted - set(served.pairs), "beside those that the engine fuses them with")


def _fill_layers(case: Case, served: Served, code: str) -> Step | None:
    """Add the layers in which a kind of module has no update."""
    if isinstance(served.modules, Missing):
        return None
    kinds = {_kind(module) for module in served.pairs}
    wanted = {name for name in served.modules.modules if _kind(name) in kinds} - set(served.pairs)
    return _with_zeros(case, served, code, wanted, "in the layers without an update")


def _with_zeros(case: Case, served: Served, code: str, modules: set[str], where: str) -> Step | None:
    if isinstance(served.modules, Missing) or not modules:
        return None
    rank = max(map(served.rank, served.pairs), default=0)
    dtype = case.draft.tensors[next(iter(next(iter(served.pairs.values())).values()))].dtype
    makes: dict[str, Recipe] = {}
    for module in sorted(modules):
        there = served.modules.modules.get(module)
        if there is None or there.kind != "linear" or there.width is None:
            raise CannotMend(f"{module} would need an update of zeros, and is no linear layer of the base")
        makes[f"{PREFIX}{module}.lora_A.weight"] = Zeros(dtype, (rank, there.width[1]))
        makes[f"{PREFIX}{module}.lora_B.weight"] = Zeros(dtype, (there.width[0], rank))
    settings = _targets(set(served.pairs) | modules, served)
    what = f"add updates of zeros to {len(modules)} modules {where}"
    return Step(code, what, makes=makes, settings=settings, unset=_narrowing(case))


def _targets(modules: set[str], served: Served) -> dict[str, Any]:
    """`target_modules` that stands for exactly these modules: last names where these are enough, else whole paths."""
    leaves = sorted({module.rpartition(".")[2] for module in modules})
    base = served.modules.modules if isinstance(served.modules, BaseModules) else {}
    same = {name for name, one in base.items() if name.rpartition(".")[2] in leaves and one.width is not None}
    return {"target_modules": leaves if not base or same == modules else sorted(modules)}


def _narrowing(case: Case) -> frozenset[str]:
    """Fields that would narrow a list of targets down again."""
    return frozenset({"layers_to_transform", "layers_pattern", "exclude_modules"} & case.draft.config.keys())


def _kind(module: str) -> str:
    return ".".join("*" if part.isdecimal() else part for part in module.split("."))


# ------------------------------------------------------------------------------------- what is the base's own


def _drop_same(case: Case, code: str, same: Same) -> Step | None:
    """Take out whole modules and copies whose values are the base's own."""
    whole = [name for name in case.draft.tensors if "lora_" not in name and "token_adapter" not in name]
    equal = frozenset(same(whole))
    if not equal:
        return None
    entries = case.draft.config.get("modules_to_save")
    settings: Mapping[str, Any] = {}
    if isinstance(entries, list):
        left = [one for one in entries if any(_inside(name, one) for name in whole if name not in equal)]
        settings = {"modules_to_save": left or None} if left != entries else {}
    heads = {name.rpartition(".")[0].rpartition(".")[2] for name in equal} & set(knowledge.classifier_heads())
    if heads:
        return None  # PEFT puts a classifier's head back among the modules to save
    what = f"take out {len(equal)} tensors that are the base's own weights, byte for byte"
    return Step(code, what, drops=equal, settings=settings)


def _inside(name: str, entry: Any) -> bool:
    return f".{entry}." in f".{name}"
