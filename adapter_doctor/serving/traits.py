"""Find in an adapter what serving engines treat differently: each such trait, with the tensors that bear it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache

from adapter_doctor import knowledge
from adapter_doctor.facts import AdapterFolder, BaseCopies, BaseModules, Missing, Module, WeightsFiles
from adapter_doctor.formats.adapter_keys import PREFIX, adapter_name
from adapter_doctor.formats.declared_ranks import scaling_of
from adapter_doctor.serving.case import Case, Trait

_TOWERS = re.compile(r"(^|\.)(visual|vision\w*|image\w*|audio\w*|multi_modal_projector|mm_projector|connector)(\.|$)")
_CHANGING_INITS = ("pissa", "olora", "corda", "loftq")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_LAYER = re.compile(r"\.(?:layers|h|blocks|block|layer)\.(\d+)\.")


@lru_cache(maxsize=4)  # every engine asks about the same case
def traits(case: Case) -> tuple[Trait, ...]:
    """Everything about the adapter that an engine may treat in a way of its own."""
    if case.config.is_prompt_learning:
        return (Trait("prompt", tuple(case.tensors)),)
    found = list(_of_the_files(case))
    if case.config.peft_type and case.config.peft_type != "LORA":
        found.append(Trait("other-method", tuple(case.tensors), {"method": case.config.peft_type}))
        return tuple(found)
    found += (*_of_the_config(case), *_of_other_tensors(case), *_of_the_pairs(case), *_of_the_fit(case))
    return tuple(found)


def _of_the_files(case: Case) -> Iterator[Trait]:
    yield Trait("peft-folder", tuple(case.tensors))
    if isinstance(case.weights, WeightsFiles) and case.weights.chosen and case.weights.chosen.name.endswith(".bin"):
        yield Trait("pickle")
    if isinstance(case.folder, AdapterFolder) and "added_tokens.json" in case.folder.files:
        yield Trait("added-tokens")
    if case.base.quantization_method is not None:
        yield Trait(f"quantised:{case.base.quantization_method}")


def _of_the_config(case: Case) -> Iterator[Trait]:
    config = case.config
    missing = [name for name in ("lora_alpha", "r", "target_modules") if name not in config.raw]
    if missing:
        yield Trait("fields-missing", values={"fields": "{" + ", ".join(map(repr, missing)) + "}"})
    targets = config.get("target_modules")
    if isinstance(targets, str) and targets not in ("all", "all-linear"):
        yield Trait("target-pattern")
    if targets is None and "target_modules" in config.raw:
        yield Trait("target-null")
    if isinstance(config.get("lora_alpha"), float):
        yield Trait("fractional-alpha", values={"alpha": config.get("lora_alpha")})
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_CHANGING_INITS):
        yield Trait("init-changes-base", values={"init": repr(init)})
    for field_name, trait in (
        ("alora_invocation_tokens", "alora"), ("layer_replication", "layer-replication"), ("use_qalora", "qalora"),
        ("use_bdlora", "bdlora"), ("target_parameters", "target-parameters"),
    ):  # fmt: skip
        if config.get(field_name):
            yield Trait(trait)
    for field_name, trait, marks in (
        ("use_dora", "dora", ("lora_magnitude_vector",)),
        ("trainable_token_indices", "trainable-tokens", ("trainable_tokens_delta", "token_adapter")),
    ):
        tensors = tuple(name for name, key in case.keys if key is not None and key.parameter in marks)
        if tensors or config.get(field_name):
            yield Trait(trait, tensors, _named(tensors))
    biases = tuple(name for name, key in case.keys if key is not None and key.tail == ".bias")
    if biases or config.get("lora_bias"):
        yield Trait("lora-bias", biases, _named(biases))


def _of_other_tensors(case: Case) -> Iterator[Trait]:
    """The tensors that are no LoRA pair: saved modules, biases, copies, and names with an adapter's name inside."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name, key in case.keys:
        if key is not None:
            if adapter_name(key) is not None:
                kinds["adapter-name"].append(name)
            elif key.parameter not in _LORA_PARAMETERS:
                kinds["saved-other"].append(name)
            continue
        kind = _saved_kind(name)
        if kind == "base-copies" and isinstance(case.copies, BaseCopies):
            if name in case.copies.same:
                continue  # dropping it changes nothing
            kind = "base-copies" if name in case.copies.different else "base-copies-unread"
        kinds[kind].append(name)
    saved = case.config.get("modules_to_save")
    for entry in saved if isinstance(saved, list) else ():
        if isinstance(entry, str):
            kinds[_saved_kind(f"{entry}.weight")].extend(())
    if case.config.get("bias") not in (None, "none"):
        kinds["bias"] = kinds.pop("stray-bias", [])
    if kinds and isinstance(saved, list) and set(map(str, saved)) - {"classifier", "score"}:
        kinds["modules-to-save"] = []
    rows = case.base.number("vocab_size")
    for kind in ("saved-head", "saved-embeddings"):
        for name in kinds.get(kind, ()):
            shape = case.tensors.tensors[name].shape
            if rows and len(shape) == 2 and shape[0] != rows:
                kinds["more-rows"].append(name)
    for kind, names in kinds.items():
        entries = sorted(entry for entry in saved if isinstance(entry, str)) if isinstance(saved, list) else []
        unsupported = [entry for entry in entries if entry not in ("classifier", "score")]
        yield Trait(kind, () if kind == "more-rows" else tuple(names), {**_named(names), "modules": unsupported})


def _named(names: Sequence[str]) -> dict[str, str]:
    """The first of the names, with and without PEFT's prefix, as engines quote it."""
    return {"full": names[0], "name": names[0].removeprefix(PREFIX)} if names else {}


_LORA_PARAMETERS = (
    "lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "trainable_tokens_delta",
    "token_adapter",
)  # fmt: skip


def _saved_kind(name: str) -> str:
    parts = name.split(".")
    leaf = parts[-2] if len(parts) > 1 else ""
    if leaf == "base_layer" and parts[-1] == "weight" and len(parts) > 2 and parts[-3] in ("embed_tokens", "lm_head"):
        return "base-copies"
    heads = {"lm_head": "saved-head", "score": "saved-classifier", "classifier": "saved-classifier"}
    if leaf in heads:
        return heads[leaf]
    if leaf in knowledge.embedding_layers():
        return "saved-embeddings"
    if "norm" in leaf.lower():
        return "saved-norm"
    return "stray-bias" if parts[-1] == "bias" else "saved-other"


def _of_the_pairs(case: Case) -> Iterator[Trait]:
    kinds: dict[str, set[str]] = defaultdict(set)
    experts: dict[str, set[int]] = defaultdict(set)
    for module, halves in case.pairs.items():
        leaf = module.rpartition(".")[2]
        if len(halves) == 1:
            kinds["half-pair:unscaled" if _scaled_by_one(case, module) else "half-pair"].add(module)
        expert = _EXPERT.search(f".{module}.")
        if expert:
            kinds["per-expert"].add(module)
            experts[_EXPERT.sub(".experts.*.", f".{module}.")].add(int(expert[1]))
        elif leaf == "experts" or module.endswith(".experts.base_layer"):
            kinds["stacked-experts"].add(module)
        elif leaf == "lm_head":
            kinds["head-lora-tied" if case.tied else "head-lora"].add(module)
        elif leaf in knowledge.embedding_layers() or any("embedding" in name for name in halves.values()):
            kinds["embedding-lora-tied" if case.tied else "embedding-lora"].add(module)
        elif _TOWERS.search(module):
            kinds["tower-lora"].add(module)
        elif leaf in ("gate", "router"):
            kinds["router-lora"].add(module)
        if any(len(case.tensors.tensors[name].shape) > 2 for name in halves.values()):
            kinds["conv-lora"].add(module)
    count = case.base.number("num_experts", "num_local_experts", "n_routed_experts")
    if any(len(found) < (count or max(found) + 1) for found in experts.values()):
        kinds["expert-gaps"] = set(kinds["per-expert"])
    plain = {module for module, halves in case.pairs.items() if len(halves) == 2} - kinds["stacked-experts"]
    if len({case.rank(module) for module in plain}) > 1:
        kinds["uneven-ranks"] = set()
    kinds |= _incomplete(case)
    for kind, modules in kinds.items():
        if modules or kind == "uneven-ranks":
            yield Trait(kind, case.names(modules), {"module": min(modules, default="")})


def _scaled_by_one(case: Case, module: str) -> bool:
    try:
        return scaling_of(case.config, module) == 1
    except (TypeError, ValueError):
        return False


def _incomplete(case: Case) -> dict[str, set[str]]:
    """Modules that stand in some layers only, and halves of what engines fuse, without the other half."""
    layers: dict[str, set[str]] = defaultdict(set)
    for module in case.pairs:
        found = _LAYER.search(f".{module}.")
        if found and not _EXPERT.search(f".{module}."):
            layers[f".{module}.".replace(found[0], ".*.", 1)].add(module)
    total = case.base.number("num_hidden_layers", "n_layer", "num_layers")
    kinds: dict[str, set[str]] = defaultdict(set)
    for modules in layers.values():
        if total and len(modules) < total:
            kinds["some-layers"] |= modules
    for module in case.pairs:
        parent, _, leaf = module.rpartition(".")
        beside = {
            one for one in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj") if f"{parent}.{one}" in case.pairs
        }
        if leaf == "q_proj" and "v_proj" not in beside:
            kinds["q-without-v"].add(module)
        if (leaf in ("k_proj", "v_proj") and "q_proj" not in beside) or (
            leaf == "up_proj" and "gate_proj" not in beside
        ):
            kinds["v-without-q"].add(module)
    return kinds


def _of_the_fit(case: Case) -> Iterator[Trait]:
    """Names and shapes against the base's modules, by path: what PEFT would or would not find does not matter here."""
    bare = tuple(name for name, key in case.keys if key is not None and key.prefix != PREFIX)
    if bare:
        yield Trait("no-prefix", bare)
    if isinstance(case.modules, Missing):
        yield Trait("unseen-base", values={"why": case.modules.why})
        return
    modules = case.modules.modules
    leaves = {name.rpartition(".")[2] for name in modules}
    wrapped = {_text_name(name) for name in modules if "language_model" in name}
    kinds: dict[str, set[str]] = defaultdict(set)
    for module in case.pairs:
        plain = _EXPERT.sub(".experts.*.", f".{module}.")
        if module in modules:
            width = _widths(case, module, modules[module])
            if width:
                kinds[width].add(module)
        elif plain != f".{module}." or module.endswith((".experts", ".experts.base_layer")):
            continue  # stacked by transformers 5: whether the engine's layout agrees is another trait
        elif _beyond(module, case.modules):
            if not case.config.get("layer_replication"):  # which is what makes more layers of them
                kinds["layer-beyond"].add(module)
        elif module in wrapped:
            kinds["text-path"].add(module)
        elif module.rpartition(".")[2] in leaves:
            kinds["other-path"].add(module)
        else:
            kinds["unknown-module"].add(module)
    for kind, found in kinds.items():
        numbers = [int(one[1]) for module in found if (one := _LAYER.search(f".{module}."))]
        first = min(found)
        shape = max((case.tensors.tensors[name].shape for name in case.names({first})), default=())
        values = {
            "module": first, "layer": max(numbers, default=0), "leaf": first.rpartition(".")[2],
            "size": max(shape, default=0), "base_size": max(_shape_of(case.modules, first), default=0),
        }  # fmt: skip
        yield Trait(kind, case.names(found), values)


def _text_name(name: str) -> str:
    """A module of a wrapped language model as a model of text alone would call it."""
    name = name.replace("model.language_model.", "model.", 1).replace("language_model.model.", "model.", 1)
    return name.removeprefix("language_model.")


def _beyond(module: str, base: BaseModules) -> bool:
    for path, count in base.layer_counts.items():
        if module.startswith(f"{path}."):
            number = module[len(path) + 1 :].partition(".")[0]
            if number.isdecimal() and int(number) >= count:
                return True
    return False


def _shape_of(base: BaseModules, module: str) -> tuple[int, ...]:
    return base.modules[module].parameters.get("weight", ()) if module in base.modules else ()


def _widths(case: Case, module: str, base: Module) -> str:
    """The trait, ``narrower``, ``wider`` or ``embedding-rows``, where a pair's outer sizes are not those of the base's module."""
    halves, width = case.pairs[module], base.width
    if len(halves) < 2 or width is None or base.kind not in ("linear", "conv1d", "embedding"):
        return ""
    one, other = (case.tensors.tensors[halves[half]].shape for half in "AB")
    if len(one) != 2 or len(other) != 2:
        return ""
    out, into = other[0], one[1]
    if base.kind == "embedding" and into != width[1]:
        return "embedding-rows"
    if out > width[0] or into > width[1]:
        return "wider"
    return "narrower" if (out, into) != width else ""
