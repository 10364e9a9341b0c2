"""Compare the adapter's tensors with the base's modules: why each tensor that finds no place finds none."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

from adapter_doctor.facts import (
    AdapterConfig,
    AdapterTensors,
    BaseConfig,
    BaseModules,
    Clash,
    Comparison,
    Dimension,
    Fit,
    RemoteCode,
    Rename,
)
from adapter_doctor.formats.adapter_keys import PREFIX, WRAPPERS, AdapterKey, adapter_name, parse
from adapter_doctor.formats.module_widths import ROLES, Width, width_in
from adapter_doctor.formats.patterns import BadPattern, names_matched
from adapter_doctor.remote_code import recognise
from adapter_doctor.renames import renamed, search

_FUSED = {
    "q_proj": ("qkv_proj", "query_key_value", "Wqkv", "c_attn", "in_proj", "qkv", "W_pack", "attn_qkv"),
    "gate_proj": ("gate_up_proj", "gate_and_up_proj", "w12", "dense_h_to_4h"),
}
_FUSED["k_proj"] = _FUSED["v_proj"] = _FUSED["query"] = _FUSED["key"] = _FUSED["value"] = _FUSED["q_proj"]
_FUSED["up_proj"] = _FUSED["w1"] = _FUSED["w3"] = _FUSED["gate_proj"]
_NUMBER = re.compile(r"(?:^|\.)(\d+)(?=\.|$)")
_OLD_LAYOUTS = ("oft_r", "oft_s", "bone_block")


def compare(
    tensors: AdapterTensors, base: BaseModules, fit: Fit, base_config: BaseConfig, config: AdapterConfig | None = None
) -> Comparison:
    """The comparison; see :class:`adapter_doctor.facts.Comparison` for the reasons it sorts by."""
    parsed = {key: parse(key) for key in tensors}
    named = config.base_name if config is not None else ""
    strays, rename, remote = _sort_strays(fit, parsed, base, tensors, base_config.model_type, named)
    if config is not None and fit.converted:
        strays = _with_lost(strays, parsed, config)
    clashes = _clashes(fit, base)
    keys = [one for one in parsed.values() if one is not None]
    modules = {one.module for one in keys if one.module}
    dimensions = _dimensions(keys, tensors, base, base_config)
    if config is not None and config.is_prompt_learning:
        dimensions += _prompt_dimensions(config, base, base_config)
        wrong = {one.name for one in dimensions if one.in_base and not one.agrees}
        prompts = tuple(key for key in tensors if key not in {clash.key for clash in fit.clashes})
        if "layers" in wrong:
            strays["layer"] = strays.get("layer", ()) + prompts
        elif "hidden size" in wrong:  # PEFT takes it, and the first forward pass fails
            size = next(one.in_base for one in dimensions if one.name == "hidden size") or 0
            shapes = tensors.shapes
            found = tuple(Clash(key, shapes[key], (*shapes[key][:-1], size)) for key in prompts)
            clashes["width"] = clashes.get("width", ()) + found
    return Comparison(
        strays=strays,
        vacant=_sort_vacant(fit, parsed, strays),
        clashes=clashes,
        rename=rename,
        remote=remote,
        dimensions=dimensions,
        shared_modules=sum(1 for name in modules if plain(name) in base.modules),
        adapter_modules=len(modules),
    )


def _with_lost(
    strays: Mapping[str, tuple[str, ...]], parsed: Mapping[str, AdapterKey | None], config: AdapterConfig
) -> dict[str, tuple[str, ...]]:
    """``strays`` with those apart that the config does call for: PEFT moved their targets to the stacked experts."""
    setting = config.get("target_modules")
    keys = strays.get("switched-off", ())
    modules = {key: plain(one.module) for key in keys if (one := parsed[key]) is not None and one.parameter}
    try:
        called = set(names_matched(setting, modules.values())) if isinstance(setting, (str, list)) else set()
    except BadPattern:
        called = set()
    lost = tuple(key for key in keys if modules.get(key) in called)
    left = {**strays, "switched-off": tuple(key for key in keys if key not in lost), "unconverted": lost}
    return {reason: names for reason, names in left.items() if names}


def _prompt_dimensions(config: AdapterConfig, base: BaseModules, base_config: BaseConfig) -> tuple[Dimension, ...]:
    """Sizes that a learnt prompt was made for. PEFT takes them from the adapter's config and never asks the base."""
    found = []
    layers, width = config.get("num_layers"), config.get("token_dim")
    if config.peft_type in ("PREFIX_TUNING", "CARTRIDGE"):
        there = base_config.number("num_hidden_layers", "n_layer", "num_layers")
        if isinstance(layers, int) and there:
            found.append(Dimension("layers", layers, there))
    elif isinstance(width, int):
        rows = base_config.number("vocab_size")
        widths = {
            one.width[0]
            for one in base.modules.values()
            if one.kind == "embedding" and one.width is not None and one.width[1] == rows
        }
        if len(widths) == 1:
            found.append(Dimension("hidden size", width, widths.pop()))
    return tuple(found)


def plain(module: str) -> str:
    """A module path without the levels that LoRA on parameters adds."""
    return re.sub(r"(\.base_layer)+$", "", module)


# ------------------------------------------------------------------------------------------------------ strays


def _sort_strays(
    fit: Fit,
    parsed: Mapping[str, AdapterKey | None],
    base: BaseModules,
    tensors: AdapterTensors,
    model_type: str,
    named: str,
) -> tuple[dict[str, tuple[str, ...]], Rename | None, RemoteCode | None]:
    found: dict[str, list[str]] = defaultdict(list)
    unexplained: list[AdapterKey] = []
    for key in fit.strays if fit.places else tuple(parsed):
        one = parsed.get(key) or _whole(key)
        if one is None:
            found["foreign"].append(key)
        elif not one.module:  # prompts and shared parameters hang on the model itself
            found["switched-off"].append(key)
        elif reason := _reason(one, base):
            found[reason].append(key)
        else:
            unexplained.append(one)
    if not fit.places:
        found.pop("switched-off", None)  # nothing was injected: that the base has the module says nothing yet
    within = [one for one in unexplained if not beyond_layers(one.module, base)]
    renamed_by_peft = [
        one for key, one in parsed.items()
        if fit.converted and one is not None and key not in fit.stray_set and plain(one.module) not in base.modules
    ]  # fmt: skip
    widths = _widths([*unexplained, *renamed_by_peft], tensors)
    fits = _fitting(widths, base)
    paths = [plain(one.module) for one in within]
    others = [plain(one.module) for one in renamed_by_peft]
    known = recognise([*paths, *others], base, model_type, fits, widths, named) if paths else None
    remote = known.code if known is not None else None
    rename = known.rename if known is not None else search(paths, base, model_type, fits)
    whole = remote is not None and remote.in_adapter
    fused = {
        path for name, one in (remote.fused if remote else {}).items() for path in ((name,) if whole else one.parts)
    }
    for one in unexplained:
        module = plain(one.module)
        if rename is not None and renamed(module, rename) != module and renamed(module, rename) in base.modules:
            found["renamed"].append(one.key)
        elif beyond_layers(module, base):
            found["layer"].append(one.key)
        elif module in fused or (remote is None and _is_fused(module, base)):
            found["fused"].append(one.key)
        elif _is_expert(module, base):
            found["experts"].append(one.key)
        else:
            found["absent" if one.parameter else "foreign"].append(one.key)
    return {reason: tuple(names) for reason, names in found.items()}, rename, remote


def _whole(key: str) -> AdapterKey | None:
    """The parts of the name of a module's own parameter (a saved head, a trained bias), or None for a bare name."""
    prefix = PREFIX if key.startswith(PREFIX) else ""
    module, _, own = key[len(prefix) :].rpartition(".")
    return AdapterKey(key, prefix, module, "", f".{own}") if module else None


def _reason(one: AdapterKey, base: BaseModules) -> str | None:
    """The reason that the name alone shows, if any."""
    module = plain(one.module)
    if one.prefix == PREFIX and module.startswith(PREFIX.removesuffix(".")) and "base_model" not in base.modules:
        inner = module
        while (inner + ".").startswith(PREFIX):
            inner = inner[len(PREFIX) :]
        return "double-prefix" if inner in base.modules else None
    bare = unwrapped(module)
    if bare != module and module not in base.modules:
        while bare.startswith(PREFIX):
            bare = bare[len(PREFIX) :]
        return "wrapper" if bare in base.modules else None
    if module in base.modules:
        if one.prefix != PREFIX:
            return "no-prefix"
        name = adapter_name(one) if one.parameter else None
        return "adapter-name" if name not in (None, "default") else "switched-off"
    return None


def unwrapped(module: str) -> str:
    """A module path without the segments that training wrappers put in."""
    return ".".join(part for part in module.split(".") if part not in WRAPPERS)


def beyond_layers(module: str, base: BaseModules) -> bool:
    """Whether the path runs through a numbered layer that the base's list of layers is too short for."""
    for match in _NUMBER.finditer(module):
        parent = module[: match.start()]
        count = base.layer_counts.get(parent)
        if count is not None:
            return int(match[1]) >= count
    return False


def _is_fused(module: str, base: BaseModules) -> bool:
    parent, _, leaf = module.rpartition(".")
    others = _FUSED.get(leaf) or tuple(part for part, wholes in _FUSED.items() if leaf in wholes)
    near = {parent, parent.rpartition(".")[0]}
    children = {name.rpartition(".")[2] for name in base.modules if name.rpartition(".")[0] in near}
    return any(other in children for other in others)


def _is_expert(module: str, base: BaseModules) -> bool:
    match = re.search(r"^(.*?\.?experts)\.\d+\.", module + ".")
    return match is not None and any(
        name.endswith("experts") and not any(f"{name}.0" == other for other in base.modules) for name in base.modules
    )


def _widths(keys: list[AdapterKey], tensors: AdapterTensors) -> Mapping[str, list[Width]]:
    """What the tensors under each path tell of its layer's widths."""
    widths: dict[str, list[Width]] = defaultdict(list)
    for one in keys:
        width = width_in(one, tensors.tensors[one.key].shape)
        if width is not None:
            widths[plain(one.module)].append(width)
    return widths


def _fitting(widths: Mapping[str, list[Width]], base: BaseModules) -> Callable[[str, str], bool]:
    """Whether the tensors under a path have the widths of a module, as far as they tell."""

    def fits(path: str, name: str) -> bool:
        there = base.modules[name].width
        return there is None or all(
            own in (None, size) for width in widths.get(path, ()) for own, size in zip(width, there, strict=True)
        )

    return fits


# ------------------------------------------------------------------------------------------------------- vacant


_MOVED = ("wrapper", "double-prefix", "no-prefix", "adapter-name", "renamed", "fused", "experts")


def _sort_vacant(
    fit: Fit, parsed: Mapping[str, AdapterKey | None], strays: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    if not fit.vacant:
        return {}
    in_file: dict[str, set[str]] = defaultdict(set)
    for key, one in parsed.items():
        if one is not None:
            in_file[plain(one.module)].add(one.parameter)
        else:
            in_file[key.removeprefix(PREFIX).rpartition(".")[0]].add(key.rpartition(".")[2])
    moved = any(strays.get(reason) for reason in _MOVED)
    found: dict[str, list[str]] = defaultdict(list)
    deepest: dict[str, int] = {}
    for path, number in filter(None, map(_layer, in_file)):
        deepest[path] = max(deepest.get(path, 0), number)
    for key in fit.vacant:
        one = parse(key)
        module = plain(one.module) if one is not None else key.removeprefix(PREFIX).rpartition(".")[0]
        layer = _layer(module)
        if one is None or one.parameter in ("trainable_tokens_delta", "token_adapter"):
            found["covered" if moved and not in_file.get(module) else "saved"].append(key)
        elif one.parameter not in in_file.get(module, ()) and in_file.get(module) and one.key not in parsed:
            found["half"].append(key)
        elif moved:
            found["covered"].append(key)
        elif layer is not None and layer[1] > deepest.get(layer[0], layer[1]):
            found["deeper"].append(key)
        else:
            found["missing"].append(key)
    if found.get("missing") and not strays:
        modules = {plain(one.module) for key in found["missing"] if (one := parse(key)) is not None}
        layers = {layer for module in modules if (layer := _layer(module)) is not None}
        if in_file and modules and len(layers) == 1 and not any(_layer(module) in layers for module in in_file):
            found["gap"] = found.pop("missing")
    return {reason: tuple(names) for reason, names in found.items()}


def _layer(module: str) -> tuple[str, int] | None:
    """The list and the number of the first numbered level in a path."""
    match = _NUMBER.search(module)
    return (module[: match.start()], int(match[1])) if match else None


# ------------------------------------------------------------------------------------------------------ clashes


def _clashes(fit: Fit, base: BaseModules) -> dict[str, tuple[Clash, ...]]:
    found: dict[str, list[Clash]] = defaultdict(list)
    swapped = _turned_round(fit.clashes)
    for clash in fit.clashes:
        found["layout" if clash.key in swapped else _clash_reason(clash, base)].append(clash)
    return {reason: tuple(clashes) for reason, clashes in found.items()}


def _turned_round(clashes: tuple[Clash, ...]) -> set[str]:
    """Keys of factors whose outer sizes are each other's: LoRA on experts of a release that took in for out."""
    pairs: dict[str, dict[str, Clash]] = defaultdict(dict)
    for clash in clashes:
        one = parse(clash.key)
        if one is not None and one.parameter in ("lora_A", "lora_B") and "experts" in one.module:
            pairs[one.module][one.parameter] = clash
    return {
        clash.key
        for pair in pairs.values()
        if len(pair) == 2
        and pair["lora_A"].in_file[1:] == pair["lora_B"].in_model[:1]
        and pair["lora_B"].in_file[:1] == pair["lora_A"].in_model[1:]
        for clash in pair.values()
    }


def _clash_reason(clash: Clash, base: BaseModules) -> str:
    if 0 in clash.in_file:
        return "empty"
    one = parse(clash.key)
    if one is None or one.parameter in ("token_adapter", "trainable_tokens_delta"):
        name = clash.key.removeprefix(PREFIX)
        module = base.modules.get(re.sub(r"(\.token_adapter)?(\.base_layer)?\.[^.]+$", "", name))
        is_rows = clash.in_file[1:] == clash.in_model[1:] and clash.in_file[:1] != clash.in_model[:1]
        vocabulary = module is not None and (module.kind == "embedding" or name.startswith(f"{base.output_embedding}."))
        return "rows" if is_rows and vocabulary else "head" if is_rows and module is not None else "width"
    if one.parameter in _OLD_LAYOUTS or len(clash.in_file) != len(clash.in_model):
        return "layout"
    if one.parameter == "lora_embedding_A":
        return "rank" if clash.in_file[0] != clash.in_model[0] else "rows"
    if (
        one.parameter in ("lora_A", "lora_embedding_A", "hada_w1_b", "hada_w2_b")
        and clash.in_file[0] != clash.in_model[0]
    ):
        return "rank" if clash.in_file[1:] == clash.in_model[1:] else _swapped(clash)
    if (
        one.parameter in ("lora_B", "lora_embedding_B", "hada_w1_a", "hada_w2_a")
        and clash.in_file[1:2] != clash.in_model[1:2]
    ):
        return "rank" if clash.in_file[0] == clash.in_model[0] else _swapped(clash)
    module = base.modules.get(plain(one.module))
    if one.parameter == "lora_B" and plain(one.module) == base.output_embedding and module is not None:
        return "rows"
    return "width"


def _swapped(clash: Clash) -> str:
    return "layout" if clash.in_file == clash.in_model[::-1] else "width"


# --------------------------------------------------------------------------------------------------- dimensions


def _dimensions(
    keys: list[AdapterKey], tensors: AdapterTensors, base: BaseModules, base_config: BaseConfig
) -> tuple[Dimension, ...]:
    """Sizes that the adapter's tensors tell, against those of the base's modules of the same name."""
    in_adapter: dict[str, Counter[int]] = defaultdict(Counter)
    in_base: dict[str, Counter[int]] = defaultdict(Counter)
    layers = Counter[str]()
    for one in keys:
        leaf = plain(one.module).rpartition(".")[2]
        width = width_in(one, tensors.tensors[one.key].shape)
        if leaf in ROLES and width is not None:
            for role, size in zip(ROLES[leaf], width, strict=True):
                if role and size:
                    in_adapter[role][size] += 1
        layer = _layer(one.module)
        if layer is not None:
            layers[layer[0]] = max(layers[layer[0]], layer[1] + 1)
    for name, module in base.modules.items():
        leaf = name.rpartition(".")[2]
        if leaf in ROLES and module.width is not None:
            for role, size in zip(ROLES[leaf], module.width, strict=True):
                in_base[role][size] += 1 if role else 0
    if not in_base.get("hidden size") and (hidden := base_config.number("hidden_size", "n_embd", "d_model")):
        in_base["hidden size"][hidden] += 1
    found = [
        Dimension(role, sizes.most_common(1)[0][0], in_base[role].most_common(1)[0][0] if in_base.get(role) else None)
        for role, sizes in in_adapter.items()
    ]
    if layers:
        name, count = layers.most_common(1)[0]
        counts = base.layer_counts
        there = counts.get(name) or base_config.number("num_hidden_layers", "n_layer", "num_layers")
        found.append(Dimension("layers", count, there))
    return tuple(sorted(found, key=lambda one: one.name))
