"""Planners for the config: what the tensors decide (rank, targets, switches), the base's name, an older PEFT's fields."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from adapter_doctor import knowledge
from adapter_doctor.comparison import plain
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterTensors,
    BaseConfig,
    BaseFolder,
    BaseModules,
    Fit,
    Missing,
)
from adapter_doctor.formats.adapter_keys import AdapterKey, parse
from adapter_doctor.formats.base_names import is_local_path
from adapter_doctor.formats.declared_ranks import pattern_for, rank_of, ranks_in
from adapter_doctor.formats.module_widths import pattern_of
from adapter_doctor.formats.patterns import BadPattern
from adapter_doctor.placement import ADAPTABLE, targeted_modules
from adapter_doctor.repair.plan import CannotMend, Case, Hopeless, Step
from adapter_doctor.shapes import Refused

_RANKED = ("LORA", "LOHA", "HIRA", "DELORA", "HRA")


def set_type(case: Case) -> Step | None:
    """`peft_type`, where it is missing and the tensors can be no other method's."""
    parsed = _parsed(case)
    if case.draft.config.get("peft_type") or not parsed or "lora_alpha" not in case.draft.config:
        return None
    kinds = {one.parameter for one in parsed}
    if {"lora_A", "lora_B"} <= kinds <= {"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"}:  # fmt: skip
        return Step("AD103", "set `peft_type` to LORA, as the tensors are", settings={"peft_type": "LORA"})
    return None


def set_ranks(case: Case) -> Step | None:
    """`r` and `rank_pattern` as the tensors have them. Alpha stays: the scaling is alpha over the true rank."""
    config, tensors = AdapterConfig(case.draft.config), case.facts.get(AdapterTensors)
    if config.peft_type not in _RANKED or config.get("target_parameters") or isinstance(tensors, Missing):
        return None
    ranks = {plain(module): rank for module, rank in ranks_in(tensors).items()}
    wrong = _misdeclared(config, ranks)
    if not wrong or not _of_this_base(case, tensors):
        return None
    declared = config.get("r")
    usual = declared if declared in ranks.values() else Counter(ranks.values()).most_common(1)[0][0]
    pattern = config.get("rank_pattern")
    pattern = dict(pattern) if isinstance(pattern, Mapping) else {}
    for kept in (pattern, {}):
        settings: dict[str, Any] = {"r": usual, "rank_pattern": kept}
        still = _misdeclared(AdapterConfig({**config.raw, **settings}), ranks)
        settings["rank_pattern"] = pattern_for(ranks, still, kept)
        if not _misdeclared(AdapterConfig({**config.raw, **settings}), ranks):
            changed = {name: value for name, value in settings.items() if value != config.get(name, {} if name != "r" else None)}  # fmt: skip
            said = ", ".join(f"`{name}` to {_short(value)}" for name, value in changed.items())
            return Step("AD211", f"set {said}, the rank of the tensors in {len(wrong)} modules", settings=changed)
    raise CannotMend("no `rank_pattern` gives every module the rank of its tensors")


def _of_this_base(case: Case, tensors: AdapterTensors) -> bool:
    """Whether the factors have the widths of the base's modules: if not, what looks like a rank may be a width."""
    base = case.facts.get(BaseModules)
    if isinstance(base, Missing):
        return False
    for key, info in tensors.tensors.items():
        one = parse(key)
        module = base.modules.get(plain(one.module)) if one is not None else None
        width = module.width if module is not None else None
        if one is None or width is None or len(info.shape) < 2:
            continue
        if one.parameter in ("lora_A", "lora_embedding_A") and info.shape[1] != width[1]:
            return False
        if one.parameter in ("lora_B", "lora_embedding_B") and info.shape[0] != width[0]:
            return False
    return True


def _misdeclared(config: AdapterConfig, ranks: Mapping[str, int]) -> list[str]:
    found = []
    for module, rank in ranks.items():
        try:
            wrong = rank_of(config, module) != rank
        except (TypeError, ValueError):
            wrong = True
        if wrong:
            found.append(module)
    return found


def set_switches(case: Case) -> Step | None:
    """`use_dora` and `lora_bias`, where every module has the tensors that only they make."""
    parsed = _parsed(case)
    modules = {one.module for one in parsed if one.parameter == "lora_A"}
    if case.draft.config.get("peft_type") != "LORA" or not modules:
        return None
    for name, there in (
        ("use_dora", {one.module for one in parsed if one.parameter == "lora_magnitude_vector"}),
        ("lora_bias", {one.module for one in parsed if one.parameter == "lora_B" and one.tail.endswith(".bias")}),
    ):
        if there and not case.draft.config.get(name):
            if not modules <= there:
                raise CannotMend(f"{len(there)} of {len(modules)} modules have the tensors of `{name}`, expected all or none")  # fmt: skip
            return Step("AD305", f"set `{name}`, whose tensors every module has", settings={name: True})
    return None


def cover_tensors(case: Case) -> Step | None:
    """`target_modules` so that it covers just the modules that have tensors, where it covers too few of them.

    Where it covers more, the file may be half of an adapter. But after training on another tree of modules, those are
    left out that share their last name with one that has tensors, and not its place: those of a tower, say, whose layers
    had other names there.
    """
    config, base, fit, base_config = AdapterConfig(case.draft.config), case.facts.get(BaseModules), case.facts.get(Fit), case.facts.get(BaseConfig)  # fmt: skip
    if isinstance(base, Missing) or isinstance(base_config, Missing) or config.is_prompt_learning:
        return None
    if isinstance(fit, Fit) and fit.converted:
        return None
    trained = {
        plain(one.module)
        for one in _parsed(case)
        if (module := base.modules.get(plain(one.module))) is not None and module.kind in ADAPTABLE
        if one.parameter not in ("trainable_tokens_delta", "token_adapter")
    }
    targeted = _targeted(config, base, base_config.model_type)
    if targeted is None:
        return None
    strange, lacking = set[str](), targeted - trained
    if any(step.other_tree for step in case.draft.steps):
        kinds = {pattern_of(module) for module in trained}
        leaves = {module.rpartition(".")[2] for module in trained}
        strange = {
            module for module in lacking if pattern_of(module) not in kinds and module.rpartition(".")[2] in leaves
        }
        if _takes_all_layers(config):
            alike = {name for name, one in base.modules.items() if one.kind in ADAPTABLE and pattern_of(name) in kinds}
            lacking = (lacking | alike) - trained
    if trained <= targeted and not strange and lacking <= targeted:
        return None
    if lacking - strange:
        raise CannotMend(
            f"{len(trained - targeted)} modules that have tensors are not in `target_modules`, and {len(lacking - strange)}"
            " that are, or are of the same kinds, have none: the file may be half of an adapter"
        )
    for settings in _covering(trained):
        if _targeted(AdapterConfig({**config.raw, **settings}), base, base_config.model_type) == trained:
            changed = {name: value for name, value in settings.items() if value != config.get(name)}
            what = f"set `target_modules` to {_short(settings['target_modules'])}, the {len(trained)} modules that have tensors"  # fmt: skip
            return Step("AD305", what, settings=changed)
    raise CannotMend("no `target_modules` covers just the modules that have tensors")


def _takes_all_layers(config: AdapterConfig) -> bool:
    """Whether the targets are last names of modules in every layer, as most people write them."""
    targets = config.get("target_modules")
    chosen = config.get("layers_to_transform") is not None or config.get("exclude_modules")
    return isinstance(targets, list) and not chosen and not any(re.search(r"(^|\.)\d+\.", str(one)) for one in targets)


def _covering(modules: set[str]) -> Iterator[dict[str, Any]]:
    """Settings that may cover these modules, the shortest and the nearest to what is there first."""
    leaves = sorted({module.rpartition(".")[2] for module in modules})
    tails = sorted({".".join(module.rsplit(".", 2)[-2:]) for module in modules})
    for others in ((), ("exclude_modules",), ("layers_to_transform", "layers_pattern")):
        cleared = dict.fromkeys(others)
        for names in (leaves, tails, sorted(modules)):
            yield {"target_modules": names, **cleared}
    yield {"target_modules": sorted(modules), "exclude_modules": None, "layers_to_transform": None, "layers_pattern": None}  # fmt: skip


def _targeted(config: AdapterConfig, base: BaseModules, model_type: str) -> set[str] | None:
    """The modules that the config targets; None where that cannot be told."""
    try:
        return set(targeted_modules(config, base, model_type))
    except Refused:
        return set()
    except BadPattern:
        return set()  # PEFT raises, and no module is targeted
    except (TypeError, ValueError, AttributeError):
        return None


def name_base(case: Case) -> Step | None:
    """The base's name on the Hub, where the config has none or a path on somebody's disk; and its revision with it."""
    config, base = AdapterConfig(case.draft.config), case.facts.get(BaseFolder)
    if isinstance(base, Missing) or not base.given or base.revision is None:
        return None  # not a base on the Hub
    named = config.base_name.strip()
    repository = base.reference.removeprefix("hf://").partition("@")[0]
    if (named and not is_local_path(named)) or named == repository:
        return None
    settings = {"base_model_name_or_path": repository, "revision": base.revision}
    what = f"name the base {repository!r} at its revision, instead of {named!r}" if named else f"name the base {repository!r} at its revision"  # fmt: skip
    return Step("AD112", what, settings=settings)


def fit_release(case: Case) -> Step | None:
    """Take out the fields that the wished-for PEFT does not have, where they change nothing."""
    if case.wishes.for_peft is None:
        return None
    release = knowledge.release_at(case.wishes.for_peft)
    peft_type = knowledge.peft_types().get(str(case.draft.config.get("peft_type")))
    order = knowledge.releases().index
    if peft_type is not None and order(peft_type.first) > order(release):
        raise Hopeless(f"{case.draft.config['peft_type']} came with PEFT {peft_type.first}, after {release}")
    unknown = knowledge.unknown_fields(case.draft.config, release)
    meant = sorted(
        name for name, span in unknown.items()
        if span is not None and name not in knowledge.FOR_TRAINING and not span.is_default(case.draft.config[name])
    )  # fmt: skip
    if meant:
        firsts = ", ".join(f"`{name}` ({span.first})" for name in meant[:4] if (span := unknown[name]))
        raise Hopeless(f"PEFT {release} lacks what this adapter uses: {firsts}")
    if not unknown:
        return None
    names = ", ".join(f"`{name}`" for name in sorted(unknown)[:6]) + (" …" if len(unknown) > 6 else "")
    what = f"take out {len(unknown)} fields that PEFT {release} does not read and that change nothing: {names}"
    return Step("AD106", what, unset=frozenset(unknown))


def _parsed(case: Case) -> list[AdapterKey]:
    return [one for one in map(parse, case.draft.tensors) if one is not None]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "…"
