"""Planners for tensor names: wrappers, prefixes, adapter names and renamed modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from adapter_doctor.comparison import plain, unwrapped
from adapter_doctor.facts import AdapterConfig, BaseModules, Comparison, Missing
from adapter_doctor.formats.adapter_keys import PREFIX, WRAPPERS, AdapterKey, adapter_name, parse
from adapter_doctor.formats.declared_ranks import declared
from adapter_doctor.renames import renamed
from adapter_doctor.repair.plan import CannotMend, Case, Step

_SAVED = re.compile(r"\.modules_to_save(?:\.(?P<name>[^.]+))?(?=\.[^.]+$)")


def unwrap(case: Case) -> Step | None:
    """Take the segments of training wrappers out."""
    keys = _strays(case, "wrapper")
    inside = sorted({part for key in keys for part in key.split(".") if part in WRAPPERS})
    what = f"take {', '.join(f'`{part}.`' for part in inside)} out of {{}} tensor names"
    return _rename(case, "AD216", keys, what, lambda one: _unprefixed(unwrapped(one.module)))


def unwrap_twice(case: Case) -> Step | None:
    """Leave one `base_model.model.` of several."""
    what = f"leave one `{PREFIX}` in {{}} tensor names"
    return _rename(case, "AD218", _strays(case, "double-prefix"), what, lambda one: _unprefixed(one.module))


def add_prefix(case: Case) -> Step | None:
    """Put PEFT's prefix in front."""
    what = f"put `{PREFIX}` in front of {{}} tensor names"
    return _rename(case, "AD219", _strays(case, "no-prefix"), what, lambda one: one.module)


def move_modules(case: Case) -> Step | None:
    """Apply the one rewrite of module paths under which the tensors fit."""
    comparison = case.facts.get(Comparison)
    if isinstance(comparison, Missing) or comparison.rename is None:
        return None
    rename = comparison.rename
    if rename.rivals:
        raise CannotMend(f"{rename} and {rename.rivals[0]} would both fit, and shapes do not tell which is meant")
    what = f"rename the modules of {{}} tensors{',' if rename.whose else ':'} {rename}"

    def moved(one: AdapterKey) -> str:
        nested = one.module[len(plain(one.module)) :]
        return renamed(plain(one.module), rename) + nested

    keys = comparison.strays.get("renamed", ())
    base = case.facts.get(BaseModules)
    if comparison.remote is not None and isinstance(base, BaseModules):  # with them, those that PEFT converts on load
        paths = {key: plain((parse(key) or _own_parameter(key)).module) for key in case.draft.tensors}
        keys = tuple(
            key for key, path in paths.items() if path not in base.modules and renamed(path, rename) in base.modules
        )
    step = _rename(case, "AD311", keys, what, moved)
    other_tree = comparison.remote is not None or bool(rename.steps)
    return replace(step, other_tree=other_tree) if step is not None else None


def drop_adapter_name(case: Case) -> Step | None:
    """Take the adapter's name out, which PEFT puts in itself."""
    tolerated = [key for key in case.draft.tensors if (one := parse(key)) and adapter_name(one) == "default"]
    keys = tuple(dict.fromkeys((*_strays(case, "adapter-name"), *tolerated)))
    parsed = [one for key in keys if (one := parse(key)) is not None]
    names = sorted({name for one in parsed if (name := adapter_name(one)) is not None})
    if len(names) > 1:
        raise CannotMend(f"the file holds {len(names)} adapters ({', '.join(names[:3])}); each needs a file of its own")
    if not names:
        return None
    renames = {one.key: one.key[: -len(one.tail)] + one.tail.replace(f".{names[0]}", "", 1) for one in parsed}
    return Step("AD217", f"take the adapter's name {names[0]!r} out of {len(renames)} tensor names", renames)


def unwrap_saved(case: Case) -> Step | None:
    """Modules saved whole, as a raw state dict names them: `modules_to_save.NAME` beside the `original_module`."""
    found = {key: match for key in case.draft.tensors if (match := _SAVED.search(key))}
    names = {match["name"] for match in found.values()}
    if not found or len(names) > 1:
        return None
    renames = {key: key[: match.start()] + key[match.end() :] for key, match in found.items()}
    if any(new in case.draft.tensors for new in renames.values()):
        return None  # PEFT writes both when the vocabulary was resized, and reads both
    originals = {key for key in case.draft.tensors if key.replace(".original_module.", ".") in renames.values()}
    what = f"name {len(renames)} tensors of modules saved whole as `save_pretrained` does"
    return Step("AD217", what, renames, drops=frozenset(originals))


def rename_bone(case: Case) -> Step | None:
    """BONE, which PEFT renamed to MiSS in 0.19: `bone_block` is `miss_block`, and computes the same."""
    renames = {
        one.key: one.key.replace(".bone_block", ".miss_block")
        for one in map(parse, case.draft.tensors)
        if one is not None and one.parameter == "bone_block"
    }
    if not renames or case.draft.config.get("peft_type") not in ("BONE", "MISS"):
        return None
    what = f"rename {len(renames)} tensors of BONE as MISS has them since PEFT 0.19"
    return Step("AD224", what, renames, settings={"peft_type": "MISS"})


# ------------------------------------------------------------------------------------------------------- how it is done


def _strays(case: Case, reason: str) -> tuple[str, ...]:
    comparison = case.facts.get(Comparison)
    return () if isinstance(comparison, Missing) else comparison.strays.get(reason, ())


def _unprefixed(module: str) -> str:
    while (module + ".").startswith(PREFIX):
        module = module[len(PREFIX) :]
    return module


def _rename(case: Case, code: str, keys: Iterable[str], what: str, move: Callable[[AdapterKey], str]) -> Step | None:
    """The step that gives each of ``keys`` the module that ``move`` says, and the config's patterns with them."""
    renames, modules = {}, {}
    for key in keys:
        one = parse(key) or _own_parameter(key)
        to = move(one)
        modules[plain(one.module)] = plain(to)
        new = f"{PREFIX}{to}.{one.parameter}{one.tail}" if one.parameter else f"{PREFIX}{to}{one.tail}"
        if new != key:
            renames[key] = new
    if not renames:
        return None
    settings = following_patterns(AdapterConfig(case.draft.config), modules) | following_names(
        case.draft.config, modules
    )
    return Step(code, what.format(len(renames)), renames, settings=settings)


def _own_parameter(key: str) -> AdapterKey:
    """The parts of the name of a module's own parameter."""
    prefix = PREFIX if key.startswith(PREFIX) else ""
    module, _, own = key[len(prefix) :].rpartition(".")
    return AdapterKey(key, prefix, module, "", f".{own}")


def following_patterns(config: AdapterConfig, modules: Mapping[str, str]) -> dict[str, Any]:
    """`rank_pattern` and `alpha_pattern` by which every renamed module keeps the rank and alpha that it was given."""
    settings: dict[str, Any] = {}
    for name in ("rank_pattern", "alpha_pattern"):
        try:
            kept = {
                new: value
                for old, new in modules.items()
                if (value := declared(config, name, old)) != declared(config, name, new)
            }
        except (TypeError, ValueError):
            continue  # the pattern is broken in itself, and a rule says so
        if kept:
            settings[name] = {**kept, **config.get(name)}
    return settings


def following_names(config: Mapping[str, Any], modules: Mapping[str, str]) -> dict[str, Any]:
    """Lists of module names in the config under the new names, where an entry names a renamed module.

    In full, that is; of modules saved whole also by its last name, as they are few: a head, an embedding.
    """
    last: dict[str, set[str]] = {}
    for old, new in modules.items():
        last.setdefault(old.rpartition(".")[2], set()).add(new.rpartition(".")[2])
    leaves = {old: new.pop() for old, new in last.items() if len(new) == 1}
    settings: dict[str, Any] = {}
    for name in ("target_modules", "exclude_modules", "modules_to_save"):
        value = config.get(name)
        if isinstance(value, list):
            names = {**leaves, **modules} if name == "modules_to_save" else modules
            moved = [names.get(one, one) if isinstance(one, str) else one for one in value]
            if moved != value:
                settings[name] = moved
    return settings
