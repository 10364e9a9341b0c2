"""Defects that adapters and bases come with, each as a change to a healthy pair on disk, with the cause it should get."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import tiny
from safetensors.numpy import load_file, save_file

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
RANK = 4


@dataclass(frozen=True)
class Pair:
    """A healthy adapter and its base, in a folder of their own, and the parts of the architecture's names.

    ``layers`` is the path of the list of layers, ``leaves`` the last names of the adapted layers, ``spare`` that of a
    linear layer which is not adapted, ``body`` the first level that holds the body.
    """

    base: Path
    adapter: Path
    others: Path
    layers: str
    leaves: tuple[str, ...]
    spare: str
    embedding: str
    base_given: bool = True

    @property
    def body(self) -> str:
        return self.layers.partition(".")[0]


# (name, list of layers, embedding): split layers, Conv1D, two kinds of fused layers, and an encoder with a head.
ARCHITECTURES = (
    ("llama", "model.layers", "model.embed_tokens"),
    ("gpt2", "transformer.h", "transformer.wte"),
    ("phi3", "model.layers", "model.embed_tokens"),
    ("gpt-neox", "gpt_neox.layers", "gpt_neox.embed_in"),
    ("bert", "bert.encoder.layer", "bert.embeddings.word_embeddings"),
)


def make(name: str, layers: str, embedding: str, folder: Path) -> Pair:
    """A healthy pair; beside it bases that are wider, deeper, shallower, of a larger vocabulary and another family."""
    import peft

    recipe = tiny.by_name(name)
    sizes = recipe.sizes
    width, depth = ("n_embd", "n_layer") if name == "gpt2" else ("hidden_size", "num_hidden_layers")
    variants = {
        "wide": {width: 2 * sizes[width], "intermediate_size": 96},
        "deep": {depth: sizes[depth] + 2},
        "shallow": {depth: sizes[depth] - 1},
        "vocabulary": {"vocab_size": tiny.VOCABULARY + 8},
    }
    if name == "gpt2":
        variants["wide"] = {width: 64}
    for variant, changed in variants.items():
        replace(recipe, sizes={**sizes, **changed}).build().save_pretrained(folder / "others" / variant)
    family = "opt" if name != "opt" else "llama"
    other = tiny.by_name(family)
    (replace(other, auto=recipe.auto) if recipe.task == "SEQ_CLS" else other).build().save_pretrained(
        folder / "others" / "family"
    )
    leaves, spare = recipe.leaves[:-1], recipe.leaves[-1]
    if name == "bert":
        leaves, spare = ("query", "value"), "key"
    for kind, more in (("adapter", {}), ("embedding", {"modules_to_save": [embedding.rpartition(".")[2]]})):
        model = recipe.build()
        if kind == "adapter":
            model.save_pretrained(folder / "base")
        config = peft.LoraConfig(
            r=RANK, lora_alpha=8, target_modules=list(leaves), task_type=recipe.task, base_model_name_or_path="",
            fan_in_fan_out=name == "gpt2", **more,
        )  # fmt: skip
        adapted = peft.get_peft_model(model, config)
        tiny.train_by_chance(adapted)
        adapted.save_pretrained(folder / (kind if kind == "adapter" else f"others/with-{kind}"))
    return Pair(folder / "base", folder / "adapter", folder / "others", layers, leaves, spare, embedding)


def copy_of(pair: Pair, folder: Path) -> Pair:
    """The pair in a new folder, free to be hurt."""
    shutil.copytree(pair.adapter, folder / "adapter")
    shutil.copytree(pair.base, folder / "base")
    return replace(pair, base=folder / "base", adapter=folder / "adapter")


Hurt = Callable[[Pair], Pair | None]
Tensors = dict[str, numpy.ndarray[Any, Any]]


@dataclass(frozen=True)
class Defect:
    """What is done to a healthy pair, the code of the one cause to be named, and architectures where it is no such defect."""

    name: str
    code: str
    hurt: Hurt
    but: tuple[str, ...] = ()


CONVERTED = ("gpt-neox",)
"""Architectures whose LoRA names PEFT converts as it loads, so that files alone do not decide about names."""
WITH_HEAD = ("bert",)
"""Architectures whose adapter has a trained head as well, which acts on its own."""


# ------------------------------------------------------------------------------------------------ ways to hurt


def config(**fields: Any) -> Hurt:
    """Fields of adapter_config.json set; ``...`` takes one away."""

    def hurt(pair: Pair) -> None:
        path = pair.adapter / CONFIG
        raw = {**json.loads(path.read_text("utf-8")), **fields}
        path.write_text(json.dumps({name: value for name, value in raw.items() if value is not ...}), "utf-8")

    return hurt


def config_by(change: Callable[[dict[str, Any], Pair], None]) -> Hurt:
    def hurt(pair: Pair) -> None:
        path = pair.adapter / CONFIG
        raw = json.loads(path.read_text("utf-8"))
        change(raw, pair)
        path.write_text(json.dumps(raw), "utf-8")

    return hurt


def tensors(change: Callable[[Tensors, Pair], Tensors]) -> Hurt:
    def hurt(pair: Pair) -> None:
        path = pair.adapter / WEIGHTS
        save_file({key: numpy.ascontiguousarray(one) for key, one in change(load_file(path), pair).items()}, path)

    return hurt


def names(change: Callable[[str, Pair], str]) -> Hurt:
    return tensors(lambda all_, pair: {change(key, pair): one for key, one in all_.items()})


def values(change: Callable[[str, Any], Any]) -> Hurt:
    return tensors(lambda all_, _: {key: change(key, one) for key, one in all_.items()})


def kept(wanted: Callable[[str, Pair], bool]) -> Hurt:
    return tensors(lambda all_, pair: {key: one for key, one in all_.items() if wanted(key, pair)})


def written(name: str, content: bytes) -> Hurt:
    def hurt(pair: Pair) -> None:
        (pair.adapter / name).write_bytes(content)

    return hurt


def removed(name: str) -> Hurt:
    def hurt(pair: Pair) -> None:
        (pair.adapter / name).unlink()

    return hurt


def base_config(**fields: Any) -> Hurt:
    def hurt(pair: Pair) -> None:
        path = pair.base / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **fields}), "utf-8")

    return hurt


def on(variant: str) -> Hurt:
    return lambda pair: replace(pair, base=pair.others / variant)


def _truncated(pair: Pair) -> None:
    path = pair.adapter / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def _sharded(pair: Pair) -> None:
    (pair.adapter / WEIGHTS).rename(pair.adapter / "adapter_model-00001-of-00001.safetensors")
    (pair.adapter / f"{WEIGHTS}.index.json").write_text("{}", "utf-8")


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("true",)


def _evil(pair: Pair) -> None:
    (pair.adapter / WEIGHTS).unlink()
    (pair.adapter / "adapter_model.bin").write_bytes(pickle.dumps(_Evil(), protocol=2))


def _in_subfolder(pair: Pair) -> None:
    inner = pair.adapter / "checkpoint-10"
    inner.mkdir()
    for name in (WEIGHTS, CONFIG):
        (pair.adapter / name).rename(inner / name)


def _whole_model(pair: Pair) -> Pair:
    return replace(pair, adapter=pair.base)


def _lost_base(pair: Pair) -> Pair:
    config(base_model_name_or_path="/root/models/mine")(pair)
    return replace(pair, base_given=False)


def _base_without_config(pair: Pair) -> None:
    (pair.base / "config.json").unlink()


def _base_cut(pair: Pair) -> None:
    path = pair.base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-500])


def _with_embedding(pair: Pair) -> Pair:
    return replace(pair, adapter=pair.others / "with-embedding", base=pair.others / "vocabulary")


def _base_weights(all_: Tensors, pair: Pair) -> Tensors:
    norm = next(
        key for key in load_file(pair.base / "model.safetensors") if "norm" in key.lower() or "ln" in key.lower()
    )
    size = load_file(pair.base / "model.safetensors")[norm].shape
    body = "" if norm.startswith(pair.body + ".") else f"{pair.body}."
    return {**all_, f"{PREFIX}{body}{norm}": numpy.full(size, 0.5, numpy.float32)}


def _foreign_names(key: str, _: Pair) -> str:
    module = key.removeprefix(PREFIX).partition(".lora_")[0].replace(".", "_")
    return f"lora_unet_{module}.{'lora_down' if 'lora_A' in key else 'lora_up'}.weight"


def _mlx_names(key: str, _: Pair) -> str:
    return key.removeprefix(PREFIX).replace(".lora_A.weight", ".lora_a").replace(".lora_B.weight", ".lora_b")


def _fused(all_: Tensors, pair: Pair) -> Tensors:
    """As if trained on a sibling whose layers are split where these are fused, or the other way round."""
    other = {"llama": ("q_proj", "qkv_proj"), "gpt2": ("c_attn", "q_proj"), "phi3": ("qkv_proj", "q_proj"),
             "gpt-neox": ("query_key_value", "q_proj"), "bert": ("query", "qkv")}  # fmt: skip
    kind = next(name for name, layers, _ in ARCHITECTURES if layers == pair.layers and pair.leaves == _leaves(name))
    mine, theirs = other[kind]
    return {key.replace(f".{mine}.", f".{theirs}."): one for key, one in all_.items() if f".{mine}." in key}


def _leaves(name: str) -> tuple[str, ...]:
    return ("query", "value") if name == "bert" else tiny.by_name(name).leaves[:-1]


def _is_b(key: str) -> bool:
    return "lora_B" in key


def _is_a(key: str) -> bool:
    return "lora_A" in key


def _is_lora(key: str) -> bool:
    return ".lora_" in key


def _zero(one: Any) -> Any:
    return numpy.zeros_like(one)


def _first(all_: Tensors, wanted: Callable[[str], bool]) -> str:
    return next(key for key in sorted(all_) if wanted(key))


def _one(wanted: Callable[[str], bool], change: Callable[[Any], Any]) -> Hurt:
    return tensors(lambda all_, _: {**all_, (key := _first(all_, wanted)): change(all_[key])})


def _set(one: Any, value: float) -> Any:
    one = one.copy()
    one.flat[0] = value
    return one


def _layer(number: int) -> Callable[[str, Pair], bool]:
    return lambda key, pair: f"{pair.layers}.{number}." in key


DEFECTS: tuple[Defect, ...] = (
    # what can be reached
    Defect("there is no such adapter", "AD002", lambda pair: replace(pair, adapter=pair.adapter / "nowhere")),
    Defect("there is no such base", "AD001", lambda pair: replace(pair, base=pair.base / "nowhere")),
    Defect("the base's folder has no config", "AD001", _base_without_config),
    Defect("the base is an adapter", "AD006", lambda pair: replace(pair, base=pair.adapter)),
    Defect("base and adapter are swapped", "AD007", lambda pair: replace(pair, base=pair.adapter, adapter=pair.base)),
    Defect("the adapter lies one folder deeper", "AD008", _in_subfolder),
    Defect("the config names a path of another machine, and no base is given", "AD009", _lost_base),
    Defect("a whole model in place of the adapter", "AD010", _whole_model),
    Defect("the base's weights are cut short", "AD011", _base_cut),
    # the config
    Defect("there is no config", "AD101", removed(CONFIG)),
    Defect("the config is cut short", "AD102", written(CONFIG, b'{"peft_type": "LORA", "r": ')),
    Defect("the config is a list", "AD102", written(CONFIG, b"[]")),
    Defect("the config is empty", "AD102", written(CONFIG, b"")),
    Defect("the config has no PEFT type", "AD103", config(peft_type=...)),
    Defect("the PEFT type is misspelt", "AD104", config(peft_type="LORRA")),
    Defect("the PEFT type is another fork's", "AD104", config(peft_type="MOELORA")),
    Defect("r is zero", "AD107", config(r=0)),
    Defect("r is text", "AD107", config(r="4")),
    Defect("r is negative", "AD107", config(r=-4)),
    Defect("the task type is unknown", "AD107", config(task_type="CHAT")),
    Defect("no module is targeted", "AD108", config(target_modules=[])),
    Defect("the pattern of the targets does not compile", "AD109", config(target_modules="(.*proj")),
    Defect("alpha is zero", "AD118", config(lora_alpha=0)),
    Defect("a switch is text", "AD120", config(use_rslora="false")),
    # the config against the tensors
    Defect("r was doubled", "AD211", config(r=2 * RANK)),
    Defect("r was halved", "AD211", config(r=RANK // 2)),
    Defect("a rank pattern of another run", "AD211",
           config_by(lambda raw, pair: raw.update(rank_pattern={pair.leaves[0]: 2 * RANK}))),
    Defect("the targets name nothing", "AD301", config(target_modules=["xyz_proj"])),
    Defect("one target was lost", "AD305", config_by(lambda raw, pair: raw.update(target_modules=[pair.leaves[0]]))),
    Defect("only some layers are called for", "AD305", config(layers_to_transform=[0])),
    Defect("a target too many", "AD304",
           config_by(lambda raw, pair: raw.update(target_modules=[*pair.leaves, pair.spare]))),
    Defect("DoRA was switched on afterwards", "AD212", config(use_dora=True)),
    Defect("a module to be saved whole was not", "AD317",
           config_by(lambda raw, pair: raw.update(modules_to_save=[*(raw["modules_to_save"] or []),
                                                                   pair.embedding.rpartition(".")[2]]))),
    # the weight file
    Defect("there are no weights", "AD201", removed(WEIGHTS)),
    Defect("an LFS pointer", "AD202", written(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:"
                                                       + b"0" * 64 + b"\nsize 100000\n")),
    Defect("a web page", "AD202", written(WEIGHTS, b"<!DOCTYPE html><html><body>Not found</body></html>")),
    Defect("the weights are cut short", "AD203", _truncated),
    Defect("the weight file is empty", "AD203", written(WEIGHTS, b"")),
    Defect("noise in place of the weights", "AD204", written(WEIGHTS, b"\xff" * 5000)),
    Defect("a pickle that runs code", "AD206", _evil),
    Defect("the weights are in shards", "AD207", _sharded),
    # names
    Defect("kohya's names", "AD208", names(_foreign_names)),
    Defect("MLX's names", "AD208", names(_mlx_names)),
    Defect("no tensor of an adapter", "AD210", names(lambda key, _: "state." + key.replace("lora_", "x_"))),
    Defect("torch.compile's level", "AD216", names(lambda key, _: key.replace(PREFIX, f"{PREFIX}_orig_mod.", 1))),
    Defect("DDP's level", "AD216", names(lambda key, _: key.replace(PREFIX, f"{PREFIX}module.", 1))),
    Defect("FSDP's level in the middle", "AD216",
           names(lambda key, pair: re.sub(rf"({re.escape(pair.layers)}\.\d+\.)", r"\1_fsdp_wrapped_module.", key))),
    Defect("the adapter's name in the names", "AD217",
           names(lambda key, _: re.sub(r"(lora_[AB])\.weight", r"\1.mine.weight", key))),
    Defect("the prefix twice", "AD218", names(lambda key, _: PREFIX + key)),
    Defect("no prefix", "AD219", names(lambda key, _: key.removeprefix(PREFIX)), CONVERTED),
    Defect("another prefix", "AD311", names(lambda key, _: key.replace(PREFIX, "model.", 1)), CONVERTED),
    Defect("a level too many", "AD311",
           names(lambda key, pair: key.replace(f"{PREFIX}{pair.body}.", f"{PREFIX}{pair.body}.language_model.", 1))),
    Defect("a level too few", "AD311", names(lambda key, pair: key.replace(f"{PREFIX}{pair.body}.", PREFIX, 1))),
    Defect("another name for the body", "AD311",
           names(lambda key, pair: key.replace(f"{PREFIX}{pair.body}.", f"{PREFIX}backbone.", 1))),
    Defect("another name for the list of layers", "AD311",
           names(lambda key, pair: key.replace(f"{pair.layers}.", pair.layers.rpartition(".")[0] + ".blocks.", 1))),
    Defect("fused layers against split ones", "AD312", tensors(_fused)),
    # tensors
    Defect("half of every pair is gone: A", "AD212", kept(lambda key, _: not _is_a(key))),
    Defect("half of every pair is gone: B", "AD212", kept(lambda key, _: not _is_b(key))),
    Defect("half of one pair is gone", "AD212",
           tensors(lambda all_, _: {k: v for k, v in all_.items() if k != _first(all_, _is_b)})),
    Defect("one layer's tensors are gone", "AD225", kept(lambda key, pair: not _layer(0)(key, pair))),
    Defect("one kind of module is gone", "AD304", kept(lambda key, pair: f".{pair.leaves[0]}." not in key)),
    Defect("a module that no base has", "AD303",
           tensors(lambda all_, pair: {**all_, **{key.replace(f".{pair.leaves[0]}.", ".xyz_proj."): one
                                                  for key, one in all_.items() if f".{pair.leaves[0]}." in key}})),
    Defect("a weight of the base among them", "AD220", tensors(_base_weights)),
    Defect("every tensor is empty", "AD209",
           tensors(lambda all_, _: {k: one[:0] if _is_lora(k) else one for k, one in all_.items()})),
    Defect("one tensor is empty", "AD209", _one(_is_b, lambda one: one[:0])),
    Defect("every B is zero", "AD214", values(lambda key, one: _zero(one) if _is_b(key) else one), WITH_HEAD),
    Defect("every A is zero", "AD214", values(lambda key, one: _zero(one) if _is_a(key) else one), WITH_HEAD),
    Defect("one NaN", "AD213", _one(_is_a, lambda one: _set(one, float("nan")))),
    Defect("infinity everywhere", "AD213", values(lambda _, one: numpy.full_like(one, numpy.inf))),
    Defect("A lies on its side", "AD306", values(lambda key, one: one.T if _is_a(key) else one)),
    # the base
    Defect("a wider base", "AD314", on("wide")),
    Defect("a base of another family", "AD314", on("family")),
    Defect("a deeper base", "AD307", on("deep")),
    Defect("a shallower base", "AD307", on("shallow")),
    Defect("a base whose vocabulary was enlarged", "AD308", _with_embedding),
)  # fmt: skip
