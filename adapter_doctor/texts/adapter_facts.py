"""What a text's names and shapes tell of an adapter and its base, as the facts that the rules of `check` read.

A size mismatch shows both sides of one place: the tensor's shape in the file and the one that the config and the base
ask for. From the second follow the rank that the config declares and the width of the layer in the base.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from adapter_doctor import knowledge
from adapter_doctor.comparison import compare, plain
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterTensors,
    BaseConfig,
    BaseFolder,
    BaseModules,
    Clash,
    Comparison,
    Facts,
    Fit,
    Module,
    Shape,
    TensorInfo,
)
from adapter_doctor.formats.adapter_keys import PREFIX, parse
from adapter_doctor.placement import canonical
from adapter_doctor.texts.state_dict_error import Listed

TELLING = (
    "AD209", "AD211", "AD216", "AD217", "AD218", "AD219", "AD303", "AD304", "AD306", "AD307", "AD308", "AD311",
    "AD312", "AD314", "AD319",
)  # fmt: skip
"""The rules that such facts decide. The others would take what a text does not list for something that is not there."""
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "embeddings", "shared", "tok_embeddings")
_HEAD = ("lm_head", "embed_out", "output_layer")


def is_about_adapter(listed: Listed) -> bool:
    """Whether the text compares an adapter's tensors with a PEFT model's places for them."""
    names = (*listed.missing, *listed.unexpected)
    own = [name for name in names if parse(name)]
    both = any(map(parse, listed.missing)) and any(map(parse, listed.unexpected))
    clashing = [name for name in listed.clashes if parse(name)]
    in_peft = any(name.startswith(PREFIX) for name in listed.clashes)
    return bool(clashing) or both or bool(in_peft and not own)


def facts_from(listed: Listed, where: str) -> Facts:
    """Config, tensors, base, fit and comparison, as far as the text lists them; ``where`` names it in messages."""
    clashes = tuple(Clash(_saved_name(one.key), one.in_file, one.in_model) for one in listed.clashes.values())
    strays = tuple(dict.fromkeys(map(_saved_name, listed.unexpected)))
    vacant = tuple(dict.fromkeys(map(_saved_name, listed.missing)))
    vacant = tuple(name for name in vacant if name not in {one.key for one in clashes})
    shapes: dict[str, Shape] = dict.fromkeys(strays, ()) | {one.key: one.in_file for one in clashes}
    tensors = AdapterTensors(where, {name: TensorInfo("", shape) for name, shape in shapes.items()})
    places: dict[str, Shape] = dict.fromkeys(vacant, ()) | {one.key: one.in_model for one in clashes}
    base, base_config, config = _modules(places), BaseConfig({}), _config(clashes)
    fit = Fit("measured", places, strays=strays, vacant=vacant, clashes=clashes)
    comparison: Comparison = compare(tensors, base, fit, base_config, config)
    return Facts().adding(config, tensors, base, base_config, BaseFolder("the base", True), fit, comparison)


def _saved_name(key: str) -> str:
    """The name under which PEFT saves what stands in the model as ``key``."""
    key = key.replace(".modules_to_save.default.", ".").replace(".original_module.", ".")
    parsed = parse(key)
    if parsed is not None and parsed.tail.count(".") >= 2:  # any adapter's name, not only `default`
        _, _, own = parsed.tail.rpartition(".")
        return key[: len(key) - len(parsed.tail)] + f".{own}" if own in ("weight", "bias") else canonical(key)
    return canonical(key)


def _config(clashes: Iterable[Clash]) -> AdapterConfig:
    """The config as the model's places show it: LoRA of their ranks."""
    ranks: dict[str, int] = {}
    for clash in clashes:
        one = parse(clash.key)
        if one is None or len(clash.in_model) < 2:
            continue
        if one.parameter in ("lora_A", "lora_embedding_A"):
            ranks[one.module] = clash.in_model[0]
        elif one.parameter in ("lora_B", "lora_embedding_B"):
            ranks.setdefault(one.module, clash.in_model[1])
    if not ranks:
        return AdapterConfig({"peft_type": "LORA"})
    usual = Counter(ranks.values()).most_common(1)[0][0]
    return AdapterConfig({
        "peft_type": "LORA", "r": usual,
        "rank_pattern": {f"^{module.replace('.', chr(92) + '.')}$": rank for module, rank in ranks.items() if rank != usual},
    })  # fmt: skip


def _modules(places: Mapping[str, Shape]) -> BaseModules:
    """The base's modules in which the text names a place, with their widths as far as the places show them."""
    sizes: dict[str, dict[str, int]] = {}
    whole: dict[str, Shape] = {}
    for key, shape in places.items():
        one = parse(key)
        if one is None:
            module, _, own = key.removeprefix(PREFIX).rpartition(".")
            if module and own == "weight":
                whole[module.removesuffix(".base_layer")] = shape
            continue
        size = sizes.setdefault(plain(one.module), {})
        if len(shape) >= 2 and one.parameter in ("lora_A", "lora_embedding_A"):
            size["in"] = shape[1]
        elif len(shape) >= 2 and one.parameter in ("lora_B", "lora_embedding_B"):
            size["out"] = shape[0]
    modules = {name: Module(_kind(name), {"weight": shape} if shape else {}) for name, shape in whole.items()}
    for name, size in sizes.items():
        known = len(size) == 2
        modules.setdefault(name, Module(_kind(name), {"weight": (size["out"], size["in"])} if known else {}))
    head = next((name for name in modules if name.rpartition(".")[2] in _HEAD), None)
    return BaseModules(modules, "memory", output_embedding=head)


def _kind(name: str) -> str:
    leaf = name.rpartition(".")[2]
    return "embedding" if leaf in (*_EMBEDDINGS, *knowledge.embedding_layers()) and leaf not in _HEAD else "linear"
