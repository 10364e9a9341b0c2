"""What PEFT demands of the values of a config, field by field: each line was put to PEFT 0.21.2, as the tests do again.

A field that is absent has its default and is never in doubt, except for those in ``REQUIRED``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from adapter_doctor import knowledge
from adapter_doctor.rules.config._values import is_finite, is_integer, is_number, one_of


@dataclass(frozen=True, slots=True)
class Demand:
    """What a value has to be, and how to tell. ``raises`` is False where PEFT loads it and the result is broken."""

    expected: str
    met: Callable[[Any], bool]
    raises: bool = True


def _choice(*choices: Any) -> Demand:
    return Demand(f"one of {', '.join(map(repr, choices))}", lambda value: one_of(value, choices))


def _optional(demand: Demand) -> Demand:
    return Demand(f"{demand.expected} or null", lambda value: value is None or demand.met(value), demand.raises)


def _object_of(demand: Demand) -> Demand:
    return Demand(
        f"an object whose values are {demand.expected}",
        lambda value: isinstance(value, Mapping) and all(demand.met(one) for one in value.values()),
    )


def _is_names(value: Any) -> bool:
    """Whether PEFT can match module names with it: text, or a list of texts; of an object it takes the keys."""
    if value is None or isinstance(value, (str, Mapping)):
        return True
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_exclusion(value: Any) -> bool:
    if not value or isinstance(value, (str, Mapping)):
        return True
    return isinstance(value, list) and not any(isinstance(one, (list, dict)) for one in value)


def _is_saved(value: Any) -> bool:
    """Of text PEFT takes each letter for a name, and there is always a module that ends in one of them."""
    if not value:
        return True
    if isinstance(value, str):
        return not any(letter.isalpha() for letter in value)
    return isinstance(value, (list, Mapping)) and all(isinstance(one, str) and one for one in value)


def _is_layers(value: Any) -> bool:
    if value is None or isinstance(value, int) or value == []:
        return True
    return isinstance(value, list) and any(isinstance(one, (int, float)) for one in value)


def _is_bias(value: Any) -> bool:
    return isinstance(value, str) and (value in ("none", "all") or value.endswith("_only"))


def _is_parameters(value: Any) -> bool:
    return isinstance(value, (list, Mapping)) or (not value and not isinstance(value, str))


def _is_whole(value: Any) -> bool:
    return is_finite(value) and not isinstance(value, bool) and value > 0 and value == int(value)


def _is_lora_init(value: Any) -> bool:
    if not value or value is True:
        return True
    if not isinstance(value, str):
        return False
    head, _, steps = value.partition("_niter_")
    if head == "pissa" and steps:
        try:
            return isinstance(int(steps), int)
        except ValueError:
            return False
    return value in ("pissa", "eva", "orthogonal", "lora_ga", "loftq") or value.lower() in ("olora", "mica", "gaussian")


def _is_replication(value: Any) -> bool:
    if not value:
        return True
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(is_integer(end) for end in pair) for pair in value
    )


def _is_token_indices(value: Any) -> bool:
    lists = list(value.values()) if isinstance(value, Mapping) else [value]
    return not any(
        isinstance(one, (str, float)) or (isinstance(one, list) and any(isinstance(index, str) for index in one))
        for one in lists
    )


def _is_invocation(value: Any) -> bool:
    return not value or (isinstance(value, list) and all(is_integer(one) for one in value))


def _is_monteclora(value: Any) -> bool:
    """Whether it is nothing, or has no unknown field: over one PEFT recurses without end (config.py, from_peft_type)."""
    known = knowledge.subconfig_fields("MontecloraConfig")
    return not value or (isinstance(value, Mapping) and value.keys() <= known.keys())


def _is_hira_init(value: Any) -> bool:
    return not value or value is True or (isinstance(value, str) and value.lower() == "gaussian")


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


_POSITIVE = Demand("a positive integer", lambda value: is_integer(value) and value > 0)
_NATURAL = Demand("an integer of 0 or more", lambda value: isinstance(value, int) and value >= 0)
_INTEGER = Demand("an integer", is_integer)
_NUMBER = Demand("a number", is_number)
_ABOVE_0 = Demand("a number above 0", lambda value: is_number(value) and not value <= 0)
_WHOLE = Demand("a positive whole number", _is_whole)
_FROM_0 = Demand("a number of 0 or more", lambda value: is_number(value) and not value < 0)
_FROM_1 = Demand("an integer of 1 or more", lambda value: isinstance(value, int) and value >= 1)
_FROM_2 = Demand("an integer of 2 or more", lambda value: isinstance(value, int) and value >= 2)
_UNIT = Demand("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1)
_BELOW_1 = Demand("a number from 0 to below 1", lambda value: is_number(value) and 0 <= value < 1)
_EVEN = Demand("a positive even integer", lambda value: is_integer(value) and value > 0 and not value % 2)
_DROPOUT = Demand("a number of at most 1", lambda value: is_number(value) and not value > 1)
_TRUTH = Demand("true or false", lambda value: isinstance(value, bool))
_OBJECT = Demand("an object", lambda value: isinstance(value, Mapping))
_SUBCONFIG = Demand("an object or null", lambda value: value is None or isinstance(value, Mapping))
_TOKENS = Demand("a list of token ids", _is_token_indices)
_BIAS = Demand("'none', 'all' or a name that ends in '_only'", _is_bias)
_FINITE = Demand(
    "a finite number: it scales every update, and makes every output NaN",
    lambda value: not is_number(value) or is_finite(value),
    raises=False,
)
_NOT_0 = Demand("another number: PEFT divides by it, and every output becomes NaN", lambda value: value != 0, False)
_SCALING = (_NUMBER, _FINITE)
_RANKS = _object_of(_POSITIVE)
_SCALINGS = (
    _object_of(Demand("numbers", is_number)),
    replace(_object_of(Demand("finite numbers", is_finite)), raises=False),
)

TASK_TYPE = Demand(
    f"null or one of {', '.join(knowledge.task_types())}",
    lambda value: value is None or one_of(value, knowledge.task_types()),
)
NAMES = Demand("null, text, or a list of module names", _is_names)
LAYERS = Demand("null, an integer or a list of integers", _is_layers)
SHARED: Mapping[str, Demand] = {
    "exclude_modules": Demand("null, text, or a list of module names", _is_exclusion),
    "modules_to_save": Demand("null or a list of module names", _is_saved),
}
"""Of fields that PEFT's common code reads for every type (tuners/tuners_utils.py, utils/other.py)."""

_RANKED = (
    "LORA", "LOHA", "POLY", "VERA", "PVERA", "RANDLORA", "HRA", "VBLORA", "MISS", "SHIRA", "DELORA", "LILY", "GRALORA",
    "TINYLORA", "PEANUT", "GLORA", "UNILORA", "HIRA", "DEFT", "SHADOW",
)  # fmt: skip
_BIASED = (
    "LORA", "ADALORA", "OFT", "BOFT", "VERA", "PVERA", "FOURIERFT", "HRA", "VBLORA", "RANDLORA", "C3A", "MISS",
    "WAVEFT", "DELORA", "GRALORA", "TINYLORA", "GLORA", "DEFT", "FROD",
)  # fmt: skip

REQUIRED = {
    "ADALORA": ("total_step",),
    "ADAPTION_PROMPT": ("adapter_len", "adapter_layers"),
    "CARTRIDGE": ("num_virtual_tokens",),
    "MULTITASK_PROMPT_TUNING": ("num_virtual_tokens",),
    "OFT": ("oft_block_size",),
    "P_TUNING": ("num_virtual_tokens",),
    "PREFIX_TUNING": ("num_virtual_tokens",),
    "PROMPT_TUNING": ("num_virtual_tokens",),
}
"""Fields that have to be there: PEFT has no default for them, or, of OFT, takes their absence for an old release's."""

_OWN: Mapping[str, Mapping[str, Demand | tuple[Demand, ...]]] = {
    "LORA": {
        "lora_alpha": _SCALING,
        "lora_dropout": _DROPOUT,
        "rank_pattern": _RANKS,
        "alpha_pattern": _SCALINGS,
        "init_lora_weights": Demand(
            "true, false, 'gaussian', 'eva', 'olora', 'pissa', 'pissa_niter_N', 'orthogonal', 'mica' or 'lora_ga'",
            _is_lora_init,
        ),
        "layer_replication": Demand("null or a list of [start, end] pairs", _is_replication),
        "target_parameters": Demand("null or a list of parameter names", _is_parameters),
        "trainable_token_indices": Demand("null, a list of token ids, or such lists by layer", _is_token_indices),
        "alora_invocation_tokens": replace(Demand("null or a list of token ids", _is_invocation), raises=False),
        "eva_config": _SUBCONFIG,
        "corda_config": _SUBCONFIG,
        "lora_ga_config": _SUBCONFIG,
        "kasa_config": _SUBCONFIG,
        "velora_config": _SUBCONFIG,
        "use_bdlora": _SUBCONFIG,
        "arrow_config": Demand(
            "null: Arrow routes between adapters and is set up in code", lambda value: value is None
        ),
        "monteclora_config": Demand("null or an object with fields of MontecloraConfig only", _is_monteclora),
    },
    "ADALORA": {
        "init_r": _NATURAL,
        "lora_alpha": _NUMBER,
        "lora_dropout": _DROPOUT,
        "total_step": _ABOVE_0,
        "tinit": _NUMBER,
        "tfinal": _NUMBER,
        "orth_reg_weight": _FROM_0,
        "rank_pattern": _optional(_object_of(Demand("lists", lambda value: isinstance(value, list)))),
    },
    "IA3": {"feedforward_modules": NAMES},
    "LOHA": {"alpha": _SCALING, "rank_pattern": _RANKS, "alpha_pattern": _SCALINGS},
    "LOKR": {
        "r": _WHOLE,
        "alpha": _SCALING,
        "rank_pattern": _object_of(_WHOLE),
        "alpha_pattern": _SCALINGS,
        "decompose_factor": _NUMBER,
    },
    "OFT": {"oft_block_size": _NATURAL, "module_dropout": _NUMBER, "init_weights": _TRUTH},
    "BOFT": {"init_weights": _TRUTH},
    "VERA": {"vera_dropout": _DROPOUT, "d_initial": _NUMBER, "projection_prng_key": _INTEGER},
    "PVERA": {"d_initial": _NUMBER},
    "RANDLORA": {"randlora_alpha": _SCALING},
    "FOURIERFT": {"n_frequency": _POSITIVE, "scaling": _SCALING, "n_frequency_pattern": _RANKS},
    "WAVEFT": {"n_frequency": _POSITIVE, "scaling": _SCALING, "n_frequency_pattern": _RANKS},
    "C3A": {"block_size": _POSITIVE, "block_size_pattern": _RANKS},
    "ROAD": {"variant": _choice("road_1", "road_2", "road_4"), "group_size": _EVEN},
    "DELORA": {
        "rank_pattern": _RANKS,
        "lambda_pattern": _object_of(Demand("numbers", lambda value: isinstance(value, (int, float, str)))),
    },
    "LILY": {"scaling": _SCALING, "stride_A": _FROM_1, "num_B": _FROM_2},
    "GRALORA": {"alpha": _SCALING, "gralora_k": _POSITIVE, "hybrid_r": _NATURAL},
    "TINYLORA": {"u": _POSITIVE, "weight_tying": _UNIT},
    "PSOFT": {
        "r": _WHOLE,
        "psoft_alpha": (*_SCALING, _NOT_0),
        "ab_svd_init": _choice("psoft_init", "pissa_init"),
        "psoft_svd": _choice("full", "lowrank"),
    },
    "PEANUT": {"scaling": _SCALING, "depth": _NATURAL},
    "GLORA": {
        "config_A_B": _choice("lora", "vector", "constant", "none"),
        "config_C": _choice("lora", "vector", "none"),
        "config_D_E": _choice("vector", "constant", "none"),
    },
    "UNILORA": {
        "theta_d_length": _POSITIVE,
        "unilora_dropout": _UNIT,
        "bias": _choice("none", "all", "unilora_only"),
    },
    "HIRA": {"rank_pattern": _OBJECT, "init_weights": Demand("true, false or 'gaussian'", _is_hira_init)},
    "DEFT": {
        "alpha": (Demand("a number or null", lambda value: not value or is_number(value)), _FINITE),
        "decomposition_method": _choice("relu", "qr"),
    },
    "SUPERTUNING": {"r": _optional(_POSITIVE), "sparsity": _BELOW_1, "select_top": _TRUTH},
    "FROD": {"sparse_rate": _UNIT},
    "SHADOW": {"shadow_alpha": _SCALING},
    "TRAINABLE_TOKENS": {"token_indices": _TOKENS},
    "ADAPTION_PROMPT": {
        "adapter_len": _POSITIVE,
        "adapter_layers": Demand("an integer", lambda value: isinstance(value, int)),
    },
    "PROMPT_TUNING": {"num_virtual_tokens": _POSITIVE, "token_dim": _optional(_INTEGER)},
    "P_TUNING": {"num_virtual_tokens": _POSITIVE, "token_dim": _optional(_INTEGER)},
    "MULTITASK_PROMPT_TUNING": {
        "num_virtual_tokens": _POSITIVE,
        "token_dim": _optional(_INTEGER),
        "num_tasks": _FROM_1,
        "num_ranks": _FROM_1,
    },
    "PREFIX_TUNING": {"num_virtual_tokens": _POSITIVE},
    "CARTRIDGE": {"num_virtual_tokens": _POSITIVE, "num_frozen_tokens": _FROM_0},
    "CPT": {"cpt_token_ids": Demand("null or a list of token ids", lambda value: value is None or _is_list(value))},
}


def demands_of(peft_type: str) -> dict[str, tuple[Demand, ...]]:
    """What a PEFT type demands of its own fields, in the order in which the demands are to be checked."""
    found: dict[str, Demand | tuple[Demand, ...]] = {}
    if peft_type in _RANKED:
        found["r"] = _POSITIVE
    if peft_type in _BIASED:
        found["bias"] = _BIAS
    found |= _OWN.get(peft_type, {})
    return {field: demand if isinstance(demand, tuple) else (demand,) for field, demand in found.items()}
