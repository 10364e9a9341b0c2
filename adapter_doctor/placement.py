"""Foretell where PEFT puts an adapter's tensors on a base, from config and module names alone.

This mirrors `BaseTuner.inject_adapter` and `set_peft_model_state_dict` of PEFT 0.21 for LoRA and the methods whose
shapes are formulas of the layer they adapt. Where it cannot tell, it says so (`Missing`) instead of guessing. The
agreement test compares every forecast with what PEFT does.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping

from adapter_doctor import knowledge
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterTensors,
    BaseModules,
    Clash,
    Fit,
    Missing,
    Refusal,
    Shape,
)
from adapter_doctor.formats.adapter_keys import PREFIX, adapter_name, parse
from adapter_doctor.formats.patterns import BadPattern, matching, names_matched
from adapter_doctor.shapes import FORMULAS, CannotForetell, Layer, Refused, checked_rank

ADAPTABLE = ("linear", "conv1d", "embedding", "conv1", "conv2", "conv3")
_DEFAULT_NAME = "default"
# LoRA variants whose places or behaviour the forecast does not know.
_EXOTIC = (
    "layer_replication", "megatron_config", "use_bdlora", "kasa_config", "monteclora_config", "arrow_config",
    "use_qalora", "ensure_weight_tying", "velora_config", "lora_ga_config",
)  # fmt: skip


_NO_LINEAR = {"Llama4Router": "router", "PhimoeTopKRouter": "router", "DeepseekV4GroupedLinear": "o_a_proj"}
"""Classes derived from Linear whose forward is another, with the names that they have in their models (5.23)."""
_EXPERT_NAMES = {"gate", "w1", "w2", "w3", "gate_proj", "up_proj", "down_proj", "experts", "gate_up_proj", "router"}


def foretell(config: AdapterConfig, tensors: AdapterTensors, base: BaseModules, model_type: str) -> Fit | Missing:
    """Where each tensor would go, or why that cannot be told without loading."""
    try:
        places, targeted = _places(config, base, model_type)
    except CannotForetell as reason:
        return Missing(str(reason))
    except BadPattern as trouble:
        return Fit("predicted", refusal=Refusal("inject", "re.error", str(trouble)))
    except Refused as refused:
        return Fit("predicted", refusal=Refusal("inject", refused.error, str(refused)))
    except (TypeError, ValueError, AttributeError, OverflowError) as error:  # values of types that PEFT does not expect
        return Missing(f"the config's values cannot be followed: {error}")
    fit = _compare(config, tensors, base, places, targeted)
    architecture = knowledge.architecture(model_type)
    if architecture is not None and architecture.converted and config.peft_type == "LORA":
        bare = [key for key in fit.strays if not key.startswith(PREFIX) and ".lora_" in key]
        if bare:  # PEFT's convert_peft_adapter_state_dict_for_transformers may put the prefix there
            return Missing(
                f"PEFT converts LoRA names on loading onto {model_type}; where {bare[0]!r} goes, only a load tells"
            )
    return fit


# ------------------------------------------------------------------------------------------------ which modules


def target_setting(config: AdapterConfig, model_type: str) -> list[str] | str | None:
    """`target_modules` as PEFT takes it: as written, or its default for the model type where it is null."""
    value = config.get("target_modules")
    if value is None:
        return knowledge.default_targets(config.peft_type, model_type)
    if isinstance(value, str):
        return value
    if isinstance(value, (list, dict)):
        return [one for one in value if isinstance(one, str)]
    return None


def all_linear(base: BaseModules, task_type: str) -> list[str]:
    """What `all-linear` stands for: every Linear and Conv1D but the output head (_maybe_include_all_linear_layers)."""
    leave_out = {base.output_embedding} if base.output_embedding else set()
    if not leave_out and task_type == "SEQ_CLS":
        leave_out = {name for name in ("score", "classifier") if name in base.modules and not leave_out}
    return [name for name, one in base.modules.items() if one.kind in ("linear", "conv1d") and name not in leave_out]


def targeted_modules(config: AdapterConfig, base: BaseModules, model_type: str) -> list[str]:
    """Names of the modules that PEFT adapts, in the base's order.

    Raises:
        BadPattern: a regular expression that does not compile or finish.
        Refused: PEFT raises because nothing is targeted.
    """
    setting = target_setting(config, model_type)
    names = [name for name in base.modules if name]
    if isinstance(setting, str) and setting.lower() == "all-linear":
        linear = set(all_linear(base, config.task_type))
        chosen = [name for name in names if name in linear or name.endswith(tuple(f".{one}" for one in linear))]
    elif setting is None:
        if config.get("target_parameters"):
            return []
        raise Refused("ValueError", "Please specify `target_modules` or `target_parameters` in `peft_config`")
    else:
        chosen = names_matched(setting, names)
    exclude = config.get("exclude_modules")
    if isinstance(exclude, (str, list)) and exclude:
        unwanted = set(names_matched(exclude, names))
        chosen = [name for name in chosen if name not in unwanted]
    for saved in saved_module_names(config):
        inside = set(matching(rf"(^|.*\.){saved}($|\..*)", chosen, whole=False))
        chosen = [name for name in chosen if name not in inside]
    if not isinstance(setting, str) or setting.lower() == "all-linear":
        chosen = _in_layers(config, chosen)
    return chosen


def _in_layers(config: AdapterConfig, names: list[str]) -> list[str]:
    """Those in the layers that `layers_to_transform` names (the first numbered segment of the path counts)."""
    wanted = config.get("layers_to_transform")
    if wanted is None or wanted == []:
        return names
    layers = {wanted} if isinstance(wanted, int) else set(wanted)
    pattern = config.get("layers_pattern")
    patterns = [pattern] if isinstance(pattern, str) and pattern else list(pattern or [])
    kept = []
    for name in names:
        found = None
        for one in patterns or [r"[^.]*"]:
            found = re.match(rf"(?:^|.*?\.){one}\.(\d+)\." if patterns else r".*?\.[^.]*\.(\d+)\.", name)
            if found:
                break
        if found and int(found[1]) in layers:
            kept.append(name)
    return kept


def saved_module_names(config: AdapterConfig) -> list[str]:
    """`modules_to_save` with the heads that PEFT adds for the task (peft_model.py, PeftModelFor…)."""
    value = config.get("modules_to_save")
    names = list(value) if isinstance(value, (list, str)) else []
    heads = {"SEQ_CLS": ["classifier", "score"], "TOKEN_CLS": ["classifier", "score"], "QUESTION_ANS": ["qa_outputs"]}
    return names + [head for head in heads.get(config.task_type, []) if head not in names]


# -------------------------------------------------------------------------------------------------- which places


def _places(config: AdapterConfig, base: BaseModules, model_type: str) -> tuple[dict[str, Shape], tuple[str, ...]]:
    shapes_of = FORMULAS.get(config.peft_type)
    if shapes_of is None:
        raise CannotForetell(f"the places of {config.peft_type or 'this type'} are known only to PEFT itself")
    for name in _EXOTIC:
        if config.get(name):
            raise CannotForetell(f"`{name}` is set, and what it does is known only to PEFT itself")
    for name in ("trainable_token_indices", "modules_to_tie"):
        if config.get(name):
            raise CannotForetell(f"`{name}` is set; where its tensors go depends on the model's code")
    setting = target_setting(config, model_type)
    touched = {*(setting if isinstance(setting, list) else ()), *saved_module_names(config)}
    if (
        base.origin == "checkpoint"
        and any("embed" in one or one == "shared" for one in touched)
        and base.shares_embedding
    ):
        raise CannotForetell("the base's halves share one embedding, which the checkpoint holds under one name only")
    if any(name.endswith("experts") and one.parameters for name, one in base.modules.items()) and (
        isinstance(setting, str) or _EXPERT_NAMES & {str(one).rpartition(".")[2] for one in setting or ()}
    ):
        raise CannotForetell("the experts are stacked, and PEFT rewrites a config that may target them one by one")
    targeted = targeted_modules(config, base, model_type)
    places = _parameter_places(config, base, model_type, set(targeted))
    if not targeted and not places:
        raise Refused("NoMatchingPeftModuleError", "Target modules not found in the base model")
    for name in targeted:
        module = base.modules[name]
        width = module.width
        if module.kind == "attention":
            raise CannotForetell(f"{name} is a MultiheadAttention, which PEFT adapts in a way of its own")
        leaf = name.rpartition(".")[2]
        if module.class_name in _NO_LINEAR or (not module.class_name and leaf in _NO_LINEAR.values()):
            raise CannotForetell(f"{name} may be a linear layer by its class alone, which is seen when it is loaded")
        if module.kind not in ADAPTABLE or width is None:
            raise Refused("ValueError", f"Target module {name} ({module.class_name}) is not supported")
        layer = Layer(name, module.kind, width[0], width[1], module)
        places |= {f"{PREFIX}{name}.{tail}": shape for tail, shape in shapes_of(config, layer).items()}
    places |= _bias_places(config, base, set(targeted))
    places |= _saved_places(config, base, set(targeted))
    return places, tuple(targeted)


def _parameter_places(
    config: AdapterConfig, base: BaseModules, model_type: str, targeted: set[str]
) -> dict[str, Shape]:
    """Places of LoRA on single parameters, such as stacked experts (BaseTuner._inject_parameters, lora.ParamWrapper).

    Several parameters of one module nest: the first is innermost, one `base_layer` deeper for each that follows.
    """
    wanted = config.get("target_parameters")
    if not isinstance(wanted, list) or not wanted or config.peft_type != "LORA":
        return {}
    ends = tuple(f".{one}" for one in wanted)
    architecture = knowledge.architecture(model_type)
    places: dict[str, Shape] = {}
    for name, module in base.modules.items():
        matched = [own for own in module.parameters if f"{name}.{own}" in wanted or f"{name}.{own}".endswith(ends)]
        if matched and (name in targeted or architecture is None):
            raise CannotForetell(f"{name} is targeted as a module and by its parameters")
        for number, own in enumerate(matched):
            shape = module.parameters[own]
            if len(shape) not in (2, 3):
                raise Refused("ValueError", f"{name}.{own} has {len(shape)} dimensions, and only 2 and 3 are supported")
            if config.get("use_dora") or config.get("lora_dropout") or config.get("lora_bias"):
                raise Refused("ValueError", "lora.ParamWrapper does not work with DoRA, lora_dropout or lora_bias")
            rank = checked_rank(config, f"{name}.{own}")
            experts, into, out = shape if len(shape) == 3 else (1, shape[1], shape[0])
            if len(shape) == 3 and not (architecture and architecture.transposed):
                into, out = out, into
            path = f"{PREFIX}{name}{'.base_layer' * (len(matched) - 1 - number)}"
            places[f"{path}.lora_A.weight"] = (rank * experts, into)
            places[f"{path}.lora_B.weight"] = (out, rank * experts)
    return places


def _bias_places(config: AdapterConfig, base: BaseModules, targeted: set[str]) -> dict[str, Shape]:
    """Biases of the base that are saved with the adapter (BaseTuner._get_learnable_bias_state_dict)."""
    setting = config.get("bias", "none")
    if setting in (None, "none"):
        return {}
    if setting != "all" and not (isinstance(setting, str) and setting.endswith("_only")):
        raise Refused("NotImplementedError", f"Requested bias: {setting}, is not implemented.")
    saved = saved_module_names(config)
    places: dict[str, Shape] = {}
    for name, module in base.modules.items():
        shape = module.parameters.get("bias")
        if shape is None or (setting != "all" and name not in targeted):
            continue
        if any(name.endswith(one) for one in saved):
            raise CannotForetell(f"`bias='all'` together with {name}, which is saved whole and has a bias")
        places[f"{PREFIX}{name}.{'base_layer.' if name in targeted else ''}bias"] = shape
    return places


def _saved_places(config: AdapterConfig, base: BaseModules, targeted: set[str]) -> dict[str, Shape]:
    """Parameters of the modules that are saved whole. PEFT matches by `endswith`, without a dot (_set_trainable)."""
    wanted = saved_module_names(config)
    places: dict[str, Shape] = {}
    roots = [name for name in base.modules if name and any(name.endswith(one) for one in wanted)]
    for root in roots:
        if any(name == root or name.startswith(f"{root}.") for name in targeted):
            raise CannotForetell(f"{root} is saved whole, and a layer inside it is targeted")
        for name, module in base.modules.items():
            if name == root or name.startswith(f"{root}."):
                places |= {f"{PREFIX}{name}.{own}": shape for own, shape in module.parameters.items()}
    return places


# ---------------------------------------------------------------------------------------------- file against places


def canonical(key: str) -> str:
    """A tensor's name as PEFT would save it: without the adapter name that PEFT tolerates on loading."""
    parsed = parse(key)
    if parsed is not None and adapter_name(parsed) == _DEFAULT_NAME:
        key = key[: len(key) - len(parsed.tail)] + parsed.tail.replace(f".{_DEFAULT_NAME}", "", 1)
    return key.removesuffix(".weight") if key.endswith("lora_magnitude_vector.weight") else key


def is_echo(key: str, names: Container[str]) -> bool:
    """Whether this is a second copy that PEFT saves of a module saved whole when the vocabulary was resized."""
    plain = re.sub(r"\.(?:modules_to_save(?:\.default)?|original_module)\.", ".", key)
    return plain != key and plain in names


def base_weight_keys(base: BaseModules, targeted: Iterable[str]) -> dict[str, Shape]:
    """Names under which a tensor in the file would land on a weight of the base itself, with its shape."""
    wrapped = set(targeted)
    keys = {}
    for name, module in base.modules.items():
        inner = "base_layer." if name in wrapped else ""
        for own, shape in module.parameters.items():
            keys[f"{PREFIX}{name}.{inner}{own}" if name else f"{PREFIX}{own}"] = shape
    return keys


def _compare(
    config: AdapterConfig,
    tensors: AdapterTensors,
    base: BaseModules,
    places: Mapping[str, Shape],
    targeted: tuple[str, ...],
) -> Fit:
    weights = base_weight_keys(base, targeted)
    strays, clashes, overwriting, filled = [], [], [], set()
    for key, shape in tensors.shapes.items():
        if is_echo(key, tensors.tensors):
            continue
        place = canonical(key)
        expected = places.get(place)
        if expected is not None:
            filled.add(place)
        elif place in weights:
            overwriting.append(key)
            expected = weights[place]
        else:
            strays.append(key)
            continue
        if shape != expected:
            clashes.append(Clash(key, shape, expected))
    vacant = tuple(key for key in places if key not in filled)
    refusal = None
    saved = set(_saved_places(config, base, set(targeted)))
    lost = [key for key in vacant if key in saved]
    if lost:
        refusal = Refusal("assign", "KeyError", repr(lost[0]))
    return Fit("predicted", places, targeted, tuple(strays), vacant, tuple(clashes), tuple(overwriting), False, refusal)
