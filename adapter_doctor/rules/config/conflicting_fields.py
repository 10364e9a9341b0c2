"""AD113: conflicting fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from adapter_doctor.facts import AdapterConfig, BaseModules, LoadOutcome, Missing
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG, is_finite, is_integer, shown, was_taken

# Each from the type's own `__post_init__` (peft/tuners/*/config.py).
_LAYERS_WITH_TEXT = frozenset(
    {
        "ADALORA", "C3A", "DEFT", "DELORA", "FOURIERFT", "HIRA", "HRA", "LORA", "MISS", "PSOFT", "SHADOW", "UNILORA",
        "WAVEFT",
    }
)  # fmt: skip
_PATTERN_WITH_TEXT = _LAYERS_WITH_TEXT - {"ADALORA", "DELORA"}
_PATTERN_ALONE = frozenset(
    {
        "ADALORA", "BOFT", "DEFT", "DELORA", "FOURIERFT", "FROD", "HRA", "LILY", "LOHA", "LOKR", "LORA", "OFT", "PEANUT",
        "PSOFT", "PVERA", "SHADOW", "TINYLORA", "VBLORA", "VERA", "WAVEFT",
    }
)  # fmt: skip
_VARIANTS = ("arrow_config", "kasa_config", "monteclora_config", "use_bdlora", "velora_config")
_MIRROR_ONLY = (
    "shadow_num_hidden_layers", "shadow_hidden_size", "shadow_num_attention_heads", "shadow_intermediate_size",
)  # fmt: skip
_NOT_ON_PARAMETERS = ("lora_dropout", "use_dora", "lora_bias", "velora_config", "kasa_config")
_NO_DROPOUT = "set `lora_dropout` to 0: it acts in training only"
Conflict = tuple[str, str | None]
"""What contradicts what, and the cure."""


@rule("AD113", Severity.ERROR, explains=("AD3", "AD5"))
def conflicting_fields(
    config: AdapterConfig, base: BaseModules | Missing, outcome: LoadOutcome | Missing
) -> Iterator[Hit]:
    """Two fields of the config contradict each other.

    ## Why it matters
    PEFT checks such pairs when it reads the config or builds the layers, and raises `ValueError`.

    ## Common causes
    Edited by hand, put together from two configs, or saved by a release or a fork that did not check yet.

    ## Fix
    Keep the field that the training used and set the other to its default.
    """
    if was_taken(outcome):
        return
    found = list(_conflicts(config, base)) or list(_on_experts(config, outcome))
    for message, fix in found:
        yield Hit(message, where=CONFIG, fix=fix)


def _conflicts(config: AdapterConfig, base: BaseModules | Missing) -> Iterator[Conflict]:
    yield from _layers(config)
    own: Callable[[AdapterConfig], Iterator[Conflict]] | None = _OWN.get(config.peft_type)
    if own is not None:
        yield from own(config)
    if config.peft_type == "LORA":
        yield from _on_parameters(config, base)


def _layers(config: AdapterConfig) -> Iterator[Conflict]:
    kind, layers, pattern = config.peft_type, config.get("layers_to_transform"), config.get("layers_pattern")
    if isinstance(config.get("target_modules"), str):
        for field, value, types in (
            ("layers_to_transform", layers, _LAYERS_WITH_TEXT),
            ("layers_pattern", pattern, _PATTERN_WITH_TEXT),
        ):
            if value is not None and kind in types:
                yield (
                    f"`{field}` is {shown(value)} beside text in `target_modules`, with which PEFT takes only null",
                    f"set `{field}` to null and write the layers into the expression, or list the modules",
                )
                return
    if pattern and layers is None and kind in _PATTERN_ALONE:
        yield (
            f"`layers_pattern` is {shown(pattern)} without `layers_to_transform`, expected both or none",
            "set `layers_pattern` to null, or `layers_to_transform` to the layers of the training",
        )


def _lora(config: AdapterConfig) -> Iterator[Conflict]:
    start = config.get("init_lora_weights", True)
    dora, bias = bool(config.get("use_dora")), bool(config.get("lora_bias"))
    if dora and config.get("megatron_config"):
        yield "`use_dora` beside `megatron_config`: PEFT has no DoRA for Megatron's layers", None
    if bias and start not in (True, False):
        yield (
            f"`lora_bias` beside `init_lora_weights` {shown(start)}: PEFT allows true and false only",
            "set `init_lora_weights` to true: it changes nothing in a trained adapter",
        )
    if bias and dora:
        yield "`lora_bias` beside `use_dora`: PEFT has no DoRA with a bias", None
    if start == "loftq" and not config.get("loftq_config"):
        yield (
            "`init_lora_weights` is 'loftq' and `loftq_config` is empty, expected its bits and iterations",
            "set `init_lora_weights` to true and load onto the quantised base that the LoftQ training saved",
        )
    variants = [name for name in _VARIANTS if isinstance(config.get(name), Mapping)]
    variants += ["use_dora"] if dora else []
    variants += ["alora_invocation_tokens"] if config.get("alora_invocation_tokens") else []
    variants += ["init_lora_weights 'mica'"] if start == "mica" else []
    if len(variants) > 1:
        yield f"{len(variants)} variants of LoRA at once ({', '.join(variants)}), expected at most one", None
    yield from _tokens(config)


def _tokens(config: AdapterConfig) -> Iterator[Conflict]:
    indices = config.get("trainable_token_indices")
    if not isinstance(indices, Mapping):
        return
    for field, why in (
        ("modules_to_save", "saved whole"),
        ("target_modules", "adapted with LoRA"),
    ):
        names = config.get(field)
        both = [name for name in indices if isinstance(names, (list, Mapping)) and name in names]
        if both:
            yield (
                f"single tokens of `{both[0]}` are trained, and `{field}` has it {why}: PEFT does one or the other",
                None,
            )


def _on_parameters(config: AdapterConfig, base: BaseModules | Missing) -> Iterator[Conflict]:
    """LoRA on bare parameters (lora/layer.py, ParamWrapper); only where the base has one of them."""
    wanted = config.get("target_parameters")
    if isinstance(base, Missing) or not isinstance(wanted, list):
        return
    names = tuple(f".{name}" for name in wanted if isinstance(name, str) and name)
    if not any(name.endswith(names) or f".{name}" in names for name, _ in base.parameters()):
        return
    for field in _NOT_ON_PARAMETERS:
        value = config.get(field)
        if value or isinstance(value, Mapping):
            cure = _NO_DROPOUT if field == "lora_dropout" else None
            yield f"`{field}` is {shown(value)} beside `target_parameters`, with which PEFT has none", cure


def _on_experts(config: AdapterConfig, outcome: LoadOutcome | Missing) -> Iterator[Conflict]:
    """The same, where PEFT itself turned LoRA on experts, one by one, into LoRA on the parameter that holds them all."""
    refusal = outcome.refusal if isinstance(outcome, LoadOutcome) else None
    if refusal is None or "ParamWrapper does not work" not in refusal.message:
        return
    for field in _NOT_ON_PARAMETERS:
        if field in refusal.message:
            yield (
                f"`{field}` is {shown(config.get(field))}, and this transformers holds the experts in one parameter, with"
                " which PEFT has none",
                _NO_DROPOUT if field == "lora_dropout" else None,
            )


def _adalora(config: AdapterConfig) -> Iterator[Conflict]:
    if config.get("use_dora"):
        yield "`use_dora` in an AdaLoRA config: PEFT has no DoRA for it", "set `use_dora` to false"
    total, first, last = config.get("total_step"), config.get("tinit", 0), config.get("tfinal", 0)
    if is_finite(total) and is_finite(first) and is_finite(last) and 0 < total <= first + last:
        yield (
            f"`tinit` {shown(first)} and `tfinal` {shown(last)} leave no step of `total_step` {shown(total)} between them",
            "set `tinit` and `tfinal` to 0: they act in training only",
        )


def _ia3(config: AdapterConfig) -> Iterator[Conflict]:
    forward, targets = config.get("feedforward_modules"), config.get("target_modules")
    if isinstance(forward, list) and isinstance(targets, list):
        more = [one for one in forward if one not in targets]
        if more:
            yield (
                f"`feedforward_modules` has {shown(more)}, which `target_modules` has not; expected a part of it",
                "add to `target_modules` what was trained, and remove the rest from `feedforward_modules`",
            )


def _oft(config: AdapterConfig) -> Iterator[Conflict]:
    if "oft_block_size" in config.raw:
        yield from _either(config, "r", 0, "oft_block_size", 32)


def _boft(config: AdapterConfig) -> Iterator[Conflict]:
    yield from _either(config, "boft_block_size", 4, "boft_block_num", 0)


def _either(config: AdapterConfig, one: str, default: int, other: str, other_default: int) -> Iterator[Conflict]:
    """Exactly one of two sizes: each follows from the other and the layer's width."""
    first, second = config.get(one, default), config.get(other, other_default)
    if (first != 0) == (second != 0):
        yield (
            f"`{one}` is {shown(first)} and `{other}` is {shown(second)}, expected exactly one of them to be 0",
            None,
        )


def _gralora(config: AdapterConfig) -> Iterator[Conflict]:
    rank, parts = config.get("r", 32), config.get("gralora_k", 2)
    if is_integer(rank) and is_integer(parts) and parts > 0 and rank % parts:
        yield f"`r` is {rank}, expected a multiple of `gralora_k`, which is {parts}", None


def _cpt(config: AdapterConfig) -> Iterator[Conflict]:
    if config.get("task_type") != "CAUSAL_LM":
        said = shown(config.get("task_type"))
        yield f"`task_type` is {said}, expected 'CAUSAL_LM', the only one that CPT supports", "set it to 'CAUSAL_LM'"
    tokens = config.get("cpt_token_ids")
    length = len(tokens) if isinstance(tokens, list) else 1
    for field in ("cpt_mask", "cpt_tokens_type_mask"):
        mask = config.get(field)
        if isinstance(mask, list) and len(mask) != length:
            yield f"`{field}` has {len(mask)} entries, expected {length}, as many as `cpt_token_ids`", None


def _cartridge(config: AdapterConfig) -> Iterator[Conflict]:
    frozen, all_tokens = config.get("num_frozen_tokens", 1), config.get("num_virtual_tokens")
    if is_integer(frozen) and is_integer(all_tokens) and frozen > all_tokens:
        yield f"`num_frozen_tokens` is {frozen}, expected at most `num_virtual_tokens`, which is {all_tokens}", None


def _prompt(config: AdapterConfig) -> Iterator[Conflict]:
    cure = "set `prompt_tuning_init` to 'RANDOM': the trained prompt is in the tensors"
    if config.get("prompt_tuning_init") == "TEXT":
        if not config.get("tokenizer_name_or_path"):
            yield "`prompt_tuning_init` is 'TEXT' without `tokenizer_name_or_path`", cure
        elif config.get("prompt_tuning_init_text") is None:
            yield "`prompt_tuning_init` is 'TEXT' without `prompt_tuning_init_text`", cure
    elif config.get("tokenizer_kwargs"):
        yield "`tokenizer_kwargs` without `prompt_tuning_init` 'TEXT'", "set `tokenizer_kwargs` to null"


def _supertuning(config: AdapterConfig) -> Iterator[Conflict]:
    if config.get("r") is None and config.get("lora_alpha") is not None:
        yield f"`lora_alpha` is {shown(config.get('lora_alpha'))} and `r` is null, expected both or none", None


def _shadow(config: AdapterConfig) -> Iterator[Conflict]:
    sizes = [name for name in _MIRROR_ONLY if config.get(name) is not None]
    if config.get("shadow_model", "mirror") != "mirror" and sizes:
        yield f"`shadow_model` names a model, and {', '.join(f'`{one}`' for one in sizes)} set its size", None


_OWN: Mapping[str, Callable[[AdapterConfig], Iterator[Conflict]]] = {
    "ADALORA": _adalora,
    "BOFT": _boft,
    "CARTRIDGE": _cartridge,
    "CPT": _cpt,
    "GRALORA": _gralora,
    "IA3": _ia3,
    "LORA": _lora,
    "MULTITASK_PROMPT_TUNING": _prompt,
    "OFT": _oft,
    "PROMPT_TUNING": _prompt,
    "SHADOW": _shadow,
    "SUPERTUNING": _supertuning,
}
