"""Foresee what an engine does with an adapter: each of its traits is looked up in the engine's profile.

A trait that the profile says nothing about makes the outcome unknown. So does a version that lies between two that were
read and differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from adapter_doctor.facts import BaseModules, Effect, Outlook
from adapter_doctor.knowledge.profiles import Answer, Profile, Scaling, Serves, VllmModel, numbers, vllm_model
from adapter_doctor.serving.case import TITLES, Case, Trait
from adapter_doctor.serving.scaling import factors, padded
from adapter_doctor.serving.traits import traits


def foresee(profile: Profile, version: str | None, case: Case, *, required: bool = True) -> Outlook:
    """What the engine does at ``version`` (the newest that was read where it is None)."""
    version = version or profile.read[-1]
    near = profile.neighbours(version)
    notes = []
    if not near:
        effects: tuple[Effect, ...] = (
            Effect("version", "unknown", f"the oldest version that was read is {profile.read[0]}"),
        )
    else:
        effects = _at(profile, near[-1], case)
        if len(near) == 2 and _at(profile, near[0], case) != effects:
            why = f"{version} lies between {near[0]} and {near[1]}, which were read and differ here"
            effects = (Effect("version", "unknown", why),)
        elif version not in profile.read:
            notes.append(f"the profile was read from {' and '.join(near)}, not from {version}")
    return Outlook(profile.engine, version, effects, required, tensors=len(case.tensors), notes=tuple(notes))


def _at(profile: Profile, version: str, case: Case) -> tuple[Effect, ...]:
    effects = tuple(_effects(profile, version, case))
    return tuple(one for one in effects if one.outcome == "inapplicable") or effects


def _effects(profile: Profile, version: str, case: Case) -> Iterator[Effect]:
    """What becomes of each trait, each tensor being counted as dropped once."""
    found = traits(case)
    dropped: set[str] = set()
    foreign = {"prompt", "other-method"} & {one.name for one in found}
    if foreign and case.config.peft_type in profile.methods:
        found = tuple(one for one in found if one.name not in foreign)
    relative = tuple(_of_the_engine(profile, version, case, bool(foreign)))
    if any(one.name == "experts-layout" for one in relative):
        found = tuple(one for one in found if one.name not in ("per-expert", "stacked-experts"))
    for trait in (*found, *relative):
        answer = profile.answer(trait.name, version) or profile.answer(trait.name.partition(":")[0], version)
        effect = _effect(profile, trait, answer)
        if effect is None:
            continue
        if effect.dropped:
            new = set(trait.tensors) - dropped
            dropped |= new
            effect = replace(effect, dropped=len(new))
        yield effect
    if not foreign:
        yield from _scaled(profile, version, case)


def _effect(profile: Profile, trait: Trait, answer: Answer | None) -> Effect | None:
    title = TITLES[trait.name.partition(":")[0]]
    if answer is None:
        why = str(trait.values.get("why", "")) or f"what {profile.name} does with {title} has not been established"
        return Effect(trait.name, "unknown", why)
    if answer.outcome == "served" and not answer.flags:
        return None
    values = _Values(trait.values)
    return Effect(
        trait.name,
        answer.outcome,
        answer.why.format_map(values) or title,
        answer.message.format_map(values),
        len(trait.tensors) if answer.drops else 0,
        (factor, factor) if (factor := trait.values.get("factor")) else None,
        answer.fix.format_map(values),
        answer.flags.format_map(values),
        answer.evidence,
        answer.source,
    )


class _Values(dict[str, Any]):
    """Values for a message; what is not there stands as an ellipsis, as in the notes that the messages come from."""

    def __missing__(self, key: str) -> str:
        return "…"


# ------------------------------------------------------------------------------------ traits that an engine gives


def _of_the_engine(profile: Profile, version: str, case: Case, foreign: bool) -> Iterator[Trait]:
    """Traits that an adapter has only in the eyes of this engine: its architectures, modules, ranks and layouts."""
    classes = ", ".join(case.base.architectures) or case.base.model_type or "?"
    model = vllm_model(case.base.architectures[0]) if profile.table_since and case.base.architectures else None
    if profile.table_since and model is None:
        yield Trait("unknown-architecture", values={"why": f"{profile.name} has no class {classes} of its own"})
        return
    serves = _serves(profile, case, model)
    if serves is None:
        yield Trait("unserved-architecture", tuple(case.tensors), {"arch": classes, "type": case.base.model_type})
        return
    if foreign:
        return
    if model is not None:
        yield from _experts_layout(model, case)
    ends: list[str] = []
    if profile.table_since and numbers(version) < numbers(profile.table_since):
        ends = [one for one in case.pairs if one.rpartition(".")[2] in ("lm_head", "embed_tokens")]
        if ends:
            why = f"which classes of {profile.name} take LoRA on embeddings was read from {profile.table_since} on"
            yield Trait("unknown-architecture", case.names(set(ends)), {"why": why})
    unserved = [one for one in case.pairs if one not in ends and not _served(one, serves, model, case)]
    if unserved:
        leaves = sorted({module.rpartition(".")[2] for module in unserved})
        values = {
            "module": unserved[0],
            "leaf": leaves[0],
            "modules": unserved[:3],
            "served": ", ".join(serves.modules),
        }
        yield Trait("unserved-module", case.names(set(unserved)), values)
    scaling = profile.scaling(version)
    yield from _ranks(profile, scaling, case)
    declared = case.config.get("r")
    if scaling is not None and scaling.pads and isinstance(declared, int) and 0 < declared != padded(declared):
        kinds = {module.rpartition(".")[2] for module in case.pairs}
        if len(kinds) > 1:
            yield Trait(
                "padded-rank",
                values={
                    "rank": declared,
                    "padded": padded(declared),
                    "kinds": len(kinds) - 1,
                    "factor": declared / padded(declared),
                },
            )


def _ranks(profile: Profile, scaling: Scaling | None, case: Case) -> Iterator[Trait]:
    """Ranks beyond the engine's largest: those that it reads in the config, and those that only the tensors have."""
    if not profile.ranks:
        return
    largest = max(profile.ranks)
    patterns = case.config.get("rank_pattern") if scaling is not None and scaling.rank == "pattern" else None
    ranks = [case.config.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())]
    declared = max((one for one in ranks if isinstance(one, int)), default=0)
    stored = max((case.rank(one) for one in case.pairs if not one.endswith((".experts", ".base_layer"))), default=0)
    if declared > largest:
        yield Trait("rank-too-large", values={"rank": declared, "max": largest})
    elif stored > largest:
        yield Trait("rank-too-large:tensor", values={"rank": stored, "max": largest})


def _serves(profile: Profile, case: Case, model: VllmModel | None) -> Serves | None:
    """What the engine serves of this architecture; None where it serves none of it."""
    if model is not None:
        return Serves(("*",)) if model.lora else None
    own = {case.base.model_type, *case.base.architectures, str(case.base.raw.get("_class_name", ""))}
    return next((one for one in profile.serves if "*" in one.types or own & set(one.types)), None)


def _served(module: str, serves: Serves, model: VllmModel | None, case: Case) -> bool:
    leaf = module.rpartition(".")[2]
    if model is None:
        return not serves.modules or leaf in serves.modules
    if ".experts" in module:  # its layout is another trait
        return True
    if leaf in ("lm_head", "embed_tokens"):
        return leaf in model.embeddings
    children = {child for parts in model.packed.values() for child in parts}
    if leaf in children:
        return True
    if leaf in model.packed:  # a fused name, where the engine's adapters use its parts
        return False
    if isinstance(case.modules, BaseModules):
        return any(
            name.rpartition(".")[2] == leaf and one.kind in ("linear", "conv1d")
            for name, one in case.modules.modules.items()
        )
    return True  # the base's names are not known, which is a trait of its own


def _experts_layout(model: VllmModel, case: Case) -> Iterator[Trait]:
    stacked = {one for one in case.pairs if one.endswith((".experts", ".experts.base_layer"))}
    single = {one for one in case.pairs if ".experts." in one} - stacked
    wrong = single if model.stacked_experts else stacked
    if wrong:
        first = min(wrong)
        yield Trait(
            "experts-layout", case.names(wrong), {"module": first, "layout": "single" if wrong is single else "stacked"}
        )


# ------------------------------------------------------------------------------------------------------- scaling


def _scaled(profile: Profile, version: str, case: Case) -> Iterator[Effect]:
    scaling = profile.scaling(version)
    if scaling is None or not case.pairs:
        return
    try:
        ratios = factors(case, scaling)
    except (TypeError, ValueError, ArithmeticError) as error:
        yield Effect("scaling", "unknown", f"the config's ranks and alphas cannot be followed: {error}")
        return
    if not all(map(math.isfinite, ratios.values())):
        yield Effect("scaling", "unknown", "the config's alphas make a scaling that is no finite number")
        return
    off = {module: ratio for module, ratio in ratios.items() if abs(ratio - 1) > 1e-6}
    if not off:
        return
    low, high = min(off.values()), max(off.values())
    amount = f"{low:.4g}" if abs(high - low) < 1e-9 else f"{low:.4g} to {high:.4g}"
    why = f"{len(off)} of {len(ratios)} modules are scaled by {amount} of what was trained: {scaling.why}"
    uniform = len(off) == len(ratios) and abs(high - low) < 1e-9
    fix = f"`adapter-doctor fix BASE ADAPTER --for {profile.engine} --output DIR` puts the scaling into `lora_B`"
    if scaling.knob and uniform and low:
        fix = f"pass {scaling.knob.format(factor=f'{1 / low:.6g}')}, or {fix}"
    yield Effect(
        "scaling", "wrong", why, factors=(low, high), fix=fix, evidence=scaling.evidence, source=scaling.source
    )
