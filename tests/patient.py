"""One healthy patient, a tiny Llama with LoRA on its attention, and the changes that make it sick.

A case changes causes: the config, the base, what the tensors were trained with, a file, a version. What follows from
them (the fit, the comparison, the load's outcome) is derived here with the project's own code. The changes, as they
stand in `tests/rules/*.toml`:

    config.FIELD, base.FIELD        adapter_config.json; the base's config.json, from which its modules follow
    trained.with.FIELD, trained.on.FIELD    the config and the base that the tensors come from (default: the healthy)
    retrained = true                the tensors come from the changed config and base
    remove = ["config.FIELD"]       also base, environment, folder.files and base_folder.files; "config.*" is all
    null = ["config.FIELD"]         the field is there and null; also base
    tensors.{keep,drop,rename,add,shape,dtype}      edits of the file, by regular expression, in this order
    values = {REGEX = KIND}         zero, one, nan or infinite
    weights.{name,state,detail,size,others}, pickle.{unexpected,dangerous}, config_text, config_file.{state,detail}
    folder.*, base_folder.*         fields of AdapterFolder and BaseFolder; `files` are added to those that are there
    modules.{keep,drop,rename,add,shape,kind,class} edits of the base's modules; and fields of BaseModules
    base_weights.NAME               the shape of a weight in the base's files, where it is not what its config makes it
    environment.PACKAGE             a version
    copies = KIND                   same, different or unread: tensors named like base weights, against the base's
    measured = true, or {NAME = SHAPE}      what PEFT finds places for, where the forecast cannot tell
    refusal.{stage,error,message}   PEFT raises
    load.*, run.*                   fields of LoadOutcome and RunOutcome, as they are told by the load alone
    upload.{files,included,left_out}, card.{present,metadata,trouble}, secrets = [...], access = STATE    for uploads
    checkpoint.*, optimizer.* and more      the training checkpoint; see patient_checkpoint.py
    text = "..."                    a text in which something failed
    missing = ["FACT"]              facts that are not known
    waived = ["FACT"]               facts that the user asked not to look for, as with `--load no`
    engines = ["ENGINE@VERSION"]    the engines asked for with `--for`
    beside = [{...}]                changes to further adapters that are served with the patient, as with `--with`

Names to be added may hold `{0..3}` and `{q_proj,v_proj}`; in a shape, "*" keeps the size that is there.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import patient_checkpoint

from adapter_doctor import facts as facts_module
from adapter_doctor.comparison import compare
from adapter_doctor.derive import with_candidates
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterFolder,
    AdapterTensors,
    BaseAccess,
    BaseCheckpoint,
    BaseConfig,
    BaseCopies,
    BaseFolder,
    BaseModules,
    Clash,
    Comparison,
    ConfigFile,
    Environment,
    Facts,
    FileState,
    Fit,
    LoadOutcome,
    Missing,
    ModelCard,
    Module,
    PickleScan,
    Refusal,
    RunOutcome,
    Secret,
    Secrets,
    Serving,
    Shape,
    TensorInfo,
    TensorValues,
    UploadContents,
    ValueSummary,
    WeightsFiles,
)
from adapter_doctor.formats import bounded_json, safetensors_header
from adapter_doctor.formats.declared_ranks import scaling_of
from adapter_doctor.gather.environment import PACKAGES
from adapter_doctor.placement import base_weight_keys, canonical, foretell
from adapter_doctor.serving.stage import asked, with_serving
from adapter_doctor.texts.reading import read_string
from adapter_doctor.texts.recognition import recognise

ADAPTER, BASE = "example/tiny-llama-lora", "example/tiny-llama"
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"

# As PEFT 0.21.2 writes it, with the base's revision recorded.
CONFIG: Mapping[str, Any] = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": BASE, "bias": "none", "corda_config": None, "ensure_weight_tying": False,
    "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
    "init_lora_weights": True, "kasa_config": None, "layer_replication": None, "layers_pattern": None,
    "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 16, "lora_bias": False, "lora_dropout": 0.05,
    "lora_ga_config": None, "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
    "monteclora_config": None, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 8,
    "rank_pattern": {}, "revision": "0e9e39f249a16976918f6564b8830bc894c89659",
    "target_modules": ["v_proj", "k_proj", "o_proj", "q_proj"], "target_parameters": None, "task_type": "CAUSAL_LM",
    "trainable_token_indices": None, "use_bdlora": None, "use_dora": False, "use_qalora": False, "use_rslora": False,
    "velora_config": None,
}  # fmt: skip

# As transformers 5.23 writes it.
BASE_CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
    "dtype": "float32", "eos_token_id": 2, "head_dim": 16, "hidden_act": "silu", "hidden_size": 64,
    "initializer_range": 0.02, "intermediate_size": 128, "max_position_embeddings": 512, "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 4, "num_key_value_heads": 2,
    "pad_token_id": None, "pretraining_tp": 1, "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "tie_word_embeddings": False,
    "transformers_version": "5.23.0", "use_cache": True, "vocab_size": 320,
}  # fmt: skip

VERSIONS: Mapping[str, str] = {
    "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "accelerate": "1.15.0", "safetensors": "0.8.0",
    "huggingface_hub": "2.4.0", "python": "3.12.3",
}  # fmt: skip

PEAK = 0.0625
README, TOKENIZER = f"---\nbase_model: {BASE}\nlibrary_name: peft\n---\n", "{}"
CARD: Mapping[str, Any] = {
    "base_model": BASE, "library_name": "peft", "license": "apache-2.0", "pipeline_tag": "text-generation",
    "tags": ["lora"],
}  # fmt: skip
_HEALTHY = ValueSummary(PEAK)
_KINDS = {
    "zero": ValueSummary(0.0),
    "one": ValueSummary(1.0, constant_one=True),
    "nan": ValueSummary(PEAK, nan=1),
    "infinite": ValueSummary(PEAK, infinite=1),
}
_SECTIONS = frozenset(
    {
        "config", "base", "trained", "retrained", "remove", "null", "tensors", "values", "weights", "pickle",
        "config_text", "config_file", "folder", "base_folder", "modules", "environment", "copies", "measured",
        "refusal", "load", "run", "upload", "card", "secrets", "access", "missing", "waived", "engines", "beside",
        "base_weights", "text",
    }
) | patient_checkpoint.SECTIONS  # fmt: skip
_KEYS = {
    "trained": ("with", "on"),
    "pickle": ("unexpected", "dangerous"),
    "weights": ("name", "state", "detail", "size", "others"),
    **patient_checkpoint.KEYS,
}
_EDITED = ("config", "base", "environment", "folder.files", "base_folder.files")


def patient(changes: Mapping[str, Any] | None = None) -> Facts:
    """The facts of the patient after ``changes``.

    Raises:
        ValueError: a change is misspelt, or hits nothing.
    """
    changes = changes or {}
    _check("", changes, _SECTIONS)
    for section, keys in _KEYS.items():
        _check(section, changes.get(section, {}), keys)
    _check("null", [entry.partition(".")[0] for entry in changes.get("null", ())], _EDITED[:2])
    for entry in changes.get("remove", ()):
        if not entry.startswith(tuple(f"{section}." for section in _EDITED)):
            raise ValueError(f"no such field: {entry}")
    absent = tuple(_fact(name) for name in changes.get("missing", ()))
    waived = dict.fromkeys(map(_fact, changes.get("waived", ())), Missing("left out at your request", waived=True))
    config = AdapterConfig(_edited(CONFIG, "config", changes.get("config", {}), changes))
    base_config = BaseConfig(_edited(BASE_CONFIG, "base", changes.get("base", {}), changes))
    modules = _modules(base_config, config.task_type, changes.get("modules", {}))
    facts = _adapter(Facts(), config, _tensors(config, base_config, changes), changes)
    facts = _base(facts, base_config, modules, changes)
    facts = facts.adding(_environment(changes), *_upload(changes))
    facts = with_candidates(_derived(_without(facts, absent), changes, absent))
    trained = _trained(config, base_config, changes)
    of_training = (*trained, _modules(trained[1], trained[0].task_type, {}))
    facts = _without(patient_checkpoint.checkpoint_facts(facts, changes, of_training), absent)
    others = [patient(other) for other in changes.get("beside", ())]
    serving = with_serving(facts, asked(changes.get("engines", ())), BASE, others)
    facts = facts.adding(serving.known[Serving] if changes.get("engines") else Serving())
    facts = facts.adding(*recognise(read_string(changes.get("text", ""))).facts.known.values())
    return Facts({**facts.known, **waived})


def _check(section: str, found: Iterable[str], known: Collection[str]) -> None:
    if unknown := set(found) - set(known):
        raise ValueError(f"no such change: {section}.{', '.join(sorted(unknown))}")


def _fact(name: str) -> type:
    found = getattr(facts_module, name, None)
    if not isinstance(found, type):
        raise ValueError(f"no fact is called {name}")
    return found


def _without(facts: Facts, kinds: Sequence[type]) -> Facts:
    why = Missing("the case says so")
    return Facts({**facts.known, **dict.fromkeys(kinds, why)})


def _edited(
    healthy: Mapping[str, Any], section: str, given: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of a section after what is removed and what is given."""
    fields = dict(healthy)
    for entry in changes.get("remove", ()):
        if entry == f"{section}.*":
            fields = {}
        elif entry.startswith(f"{section}."):
            del fields[entry.removeprefix(f"{section}.")]
    for entry in changes.get("null", ()):
        if entry.startswith(f"{section}."):
            fields[entry.removeprefix(f"{section}.")] = None
    return {**fields, **given}


# ------------------------------------------------------------------------------------------------ the adapter


def _tensors(config: AdapterConfig, base: BaseConfig, changes: Mapping[str, Any]) -> dict[str, tuple[str, Shape]]:
    """Dtype and shape of every tensor in the file: what PEFT would have saved after the training, then the edits."""
    config, base = _trained(config, base, changes)
    edits = changes.get("tensors", {})
    saved = foretell(config, AdapterTensors("", {}), _modules(base, config.task_type, {}), base.model_type)
    if isinstance(saved, Missing) or (saved.refusal is not None and not saved.places):
        raise ValueError(f"these tensors cannot have been trained: {saved}")
    tensors = {name: ("F32", shape) for name, shape in saved.places.items()}
    return _edit(tensors, edits, "tensors", {
        "add": lambda _, new: ("F32", tuple(new)),
        "shape": lambda old, new: (old[0], _shape(old[1], new)),
        "dtype": lambda old, new: (new, old[1]),
    })  # fmt: skip


def _trained(config: AdapterConfig, base: BaseConfig, changes: Mapping[str, Any]) -> tuple[AdapterConfig, BaseConfig]:
    """The config and the base that the training had."""
    if changes.get("retrained"):
        return config, base
    trained = changes.get("trained", {})
    return AdapterConfig({**CONFIG, **trained.get("with", {})}), BaseConfig({**BASE_CONFIG, **trained.get("on", {})})


def _edit(
    items: dict[str, Any], edits: Mapping[str, Any], section: str, ways: Mapping[str, Callable[[Any, Any], Any]]
) -> dict[str, Any]:
    """``items`` after the edits by regular expression; each must hit something."""

    def found(pattern: str) -> list[str]:
        names = [name for name in items if re.search(pattern, name)]
        if not names:
            raise ValueError(f"{section}: nothing matches {pattern!r}")
        return names

    _check(section, edits, ("keep", "drop", "rename", *ways))
    if "keep" in edits:
        items = {name: items[name] for name in found(edits["keep"])}
    if "drop" in edits:
        gone = set(found(edits["drop"]))
        items = {name: one for name, one in items.items() if name not in gone}
    for pattern, new in edits.get("rename", {}).items():
        found(pattern)
        items = {re.sub(pattern, new, name): one for name, one in items.items()}
    for way, change in ways.items():
        for pattern, new in edits.get(way, {}).items():
            for name in expand(pattern) if way == "add" else found(pattern):
                items[name] = change(items.get(name), new)
    return items


def expand(name: str) -> Iterator[str]:
    """The names that ``{0..3}`` and ``{a,b}`` in a name stand for."""
    parts = re.split(r"\{([^{}]*)\}", name)
    choices = []
    for at, part in enumerate(parts):
        ends = re.fullmatch(r"(\d+)\.\.(\d+)", part) if at % 2 else None
        if ends:
            choices.append([str(number) for number in range(int(ends[1]), int(ends[2]) + 1)])
        else:
            choices.append(part.split(",") if at % 2 else [part])
    return ("".join(one) for one in product(*choices))


def _shape(old: Shape, new: Sequence[Any]) -> Shape:
    return tuple(old[at] if size == "*" else size for at, size in enumerate(new))


def header(tensors: Mapping[str, tuple[str, Shape]]) -> tuple[bytes, int]:
    """A safetensors file's first bytes, up to the tensors' values, and the length of the whole file."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in sorted(tensors.items()):
        size = (TensorInfo(dtype, shape).count * safetensors_header.BITS[dtype] + 7) // 8
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + at


def _adapter(
    facts: Facts, config: AdapterConfig, tensors: Mapping[str, tuple[str, Shape]], changes: Mapping[str, Any]
) -> Facts:
    weights, pickle = changes.get("weights", {}), changes.get("pickle", {})
    name, state = weights.get("name", WEIGHTS_FILE), weights.get("state", "unsafe" if pickle else "ok")
    first, size = header(tensors)
    others = [one if isinstance(one, dict) else {"name": one} for one in weights.get("others", ())]
    config_size = len(json.dumps(config.raw))
    listing = {CONFIG_FILE: config_size, name: weights.get("size", size), "README.md": len(README)}
    if state == "absent":
        del listing[name]
    listing |= {one["name"]: one.get("size", 1_000_000) for one in others}
    if changes.get("config_file", {}).get("state") == "absent":
        del listing[CONFIG_FILE]
    folder = {"reference": ADAPTER, "exists": True, **changes.get("folder", {})}
    folder["files"] = _edited(listing, "folder.files", folder.get("files", {}), changes)
    facts = facts.adding(AdapterFolder(**(folder if folder["exists"] else {**folder, "files": {}})))
    if not folder["exists"]:
        return facts
    if isinstance(text := changes.get("config_text"), str):
        try:
            config = AdapterConfig(bounded_json.parse_object(text.encode()))
        except bounded_json.BadJson as trouble:
            changes = {**changes, "config_file": {"state": "unreadable", "detail": str(trouble)}}
    config_file = FileState(CONFIG_FILE, **{"state": "ok", "size": config_size, **changes.get("config_file", {})})
    facts = facts.adding(ConfigFile(config_file), *([config] if config_file.ok else []))
    on_disk = weights.get("size", size)
    chosen = None if state == "absent" else FileState(name, state, weights.get("detail", ""), on_disk)
    facts = facts.adding(
        WeightsFiles(chosen, tuple(FileState(**{"state": "ok", "size": 1_000_000, **one}) for one in others))
    )
    if pickle or state == "ok":
        is_pickle = name.endswith(".bin")
        facts = facts.adding(
            PickleScan(name if is_pickle else "", *(tuple(pickle.get(key, ())) for key in ("unexpected", "dangerous")))
        )
    if state != "ok":
        return facts
    parsed = safetensors_header.parse_header(first[8:], size, name)
    summaries = dict.fromkeys(parsed.tensors, _HEALTHY)
    kinds = changes.get("values", {})
    summaries = _edit(summaries, {"values": kinds} if kinds else {}, "values", {"values": lambda _, kind: _KINDS[kind]})
    return facts.adding(AdapterTensors(name, parsed.tensors, parsed.metadata), TensorValues(summaries))


# --------------------------------------------------------------------------------------------------- the base


def _modules(config: BaseConfig, task: str, edits: Mapping[str, Any]) -> BaseModules:
    """The module tree that transformers builds for a Llama of this config and task."""
    size, heads, kv = (
        config.number(name) or 0 for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
    )
    inner, rows = config.number("intermediate_size") or 0, config.number("vocab_size") or 0
    head_dim = config.number("head_dim") or size // heads
    biased = bool(config.raw.get("attention_bias"))

    def linear(out: int, into: int, bias: bool = False) -> Module:
        return Module("linear", {"weight": (out, into), **({"bias": (out,)} if bias else {})}, "Linear")

    norm = Module("norm", {"weight": (size,)}, "LlamaRMSNorm")
    layer = {
        "": Module("other", {}, "LlamaDecoderLayer"),
        ".self_attn": Module("other", {}, "LlamaAttention"),
        ".self_attn.q_proj": linear(heads * head_dim, size, biased),
        ".self_attn.k_proj": linear(kv * head_dim, size, biased),
        ".self_attn.v_proj": linear(kv * head_dim, size, biased),
        ".self_attn.o_proj": linear(size, heads * head_dim, biased),
        ".mlp": Module("other", {}, "LlamaMLP"),
        ".mlp.gate_proj": linear(inner, size),
        ".mlp.up_proj": linear(inner, size),
        ".mlp.down_proj": linear(size, inner),
        ".mlp.act_fn": Module("other", {}, "SiLUActivation"),
        ".input_layernorm": norm,
        ".post_attention_layernorm": norm,
    }
    model = {
        "": Module("other", {}, "LlamaModel"),
        ".embed_tokens": Module("embedding", {"weight": (rows, size)}, "Embedding"),
        ".layers": Module("other", {}, "ModuleList"),
    }
    for number in range(config.number("num_hidden_layers") or 0):
        model |= {f".layers.{number}{tail}": one for tail, one in layer.items()}
    model |= {".norm": norm, ".rotary_emb": Module("other", {}, "LlamaRotaryEmbedding")}
    heads_by_task = {
        "SEQ_CLS": ("LlamaForSequenceClassification", "score", linear(int(config.raw.get("num_labels", 2)), size)),
        "TOKEN_CLS": ("LlamaForTokenClassification", "score", linear(int(config.raw.get("num_labels", 2)), size, True)),
        "FEATURE_EXTRACTION": ("LlamaModel", "", norm),
    }
    class_name, head, head_module = heads_by_task.get(task, ("LlamaForCausalLM", "lm_head", linear(rows, size)))
    if head:
        modules = {
            "": Module("other", {}, class_name),
            **{f"model{tail}": one for tail, one in model.items()},
            head: head_module,
        }
    else:
        modules = {tail.removeprefix("."): one for tail, one in model.items()}
    fields = {name: edits[name] for name in ("origin", "class_name", "output_embedding", "tied") if name in edits}
    modules = _edit(modules, {name: edit for name, edit in edits.items() if name not in fields}, "modules", {
        "add": lambda _, new: Module(**{"kind": "linear", **new, "parameters": {
            own: tuple(shape) for own, shape in new.get("parameters", {}).items()}}),
        "shape": _reshaped,
        "kind": lambda old, new: replace(old, kind=new),
        "class": lambda old, new: replace(old, class_name=new),
    })  # fmt: skip
    for name in list(modules):  # the levels above a module that was added or renamed
        for depth in range(name.count(".") + 1):
            modules.setdefault(".".join(name.split(".")[:depth]), Module("other"))
    return BaseModules(modules, **{
        "origin": "skeleton", "class_name": class_name, "output_embedding": "lm_head" if "lm_head" in modules else None,
        "tied": bool(config.raw.get("tie_word_embeddings")), **fields,
    })  # fmt: skip


def _reshaped(module: Module, shape: Sequence[Any]) -> Module:
    return replace(module, parameters={**module.parameters, "weight": _shape(module.parameters["weight"], shape)})


def _base(facts: Facts, config: BaseConfig, modules: BaseModules, changes: Mapping[str, Any]) -> Facts:
    folder = {"reference": BASE, "exists": True, **changes.get("base_folder", {})}
    weights = {
        name: ("F32", shape) for name, shape in modules.parameters() if not (modules.tied and name == "lm_head.weight")
    }
    for name, shape in changes.get("base_weights", {}).items():
        if name not in weights:
            raise ValueError(f"no such weight of the base: {name}")
        weights[name] = ("F32", tuple(shape))
    first, size = header(weights)
    listing = {
        "config.json": len(json.dumps(config.raw)), "model.safetensors": size, "tokenizer.json": len(TOKENIZER)
    }  # fmt: skip
    folder["files"] = _edited(listing, "base_folder.files", folder.get("files", {}), changes)
    if not folder["exists"]:
        return facts.adding(BaseFolder(**{**folder, "files": {}}))
    facts = facts.adding(BaseFolder(**folder))
    if "model.safetensors" in folder["files"]:
        facts = facts.adding(
            BaseCheckpoint(safetensors_header.parse_header(first[8:], size, "model.safetensors").tensors)
        )
    return facts.adding(config, modules) if "config.json" in folder["files"] else facts


def _environment(changes: Mapping[str, Any]) -> Environment:
    versions = _edited(VERSIONS, "environment", changes.get("environment", {}), changes)
    python = versions.pop("python")
    return Environment(python, {name: versions.get(name) for name in (*PACKAGES, *versions)})


def _upload(changes: Mapping[str, Any]) -> tuple[object, ...]:
    upload, card = changes.get("upload", {}), changes.get("card", {})
    files = {CONFIG_FILE: 1_000, WEIGHTS_FILE: 60_000, "README.md": len(README), **upload.get("files", {})}
    found = tuple(Secret(**one) for one in changes.get("secrets", ()))
    return (
        UploadContents(files, upload.get("included", {}), upload.get("left_out", {})),
        ModelCard(**{"present": True, "metadata": dict(CARD), **card}),
        Secrets(found),
        BaseAccess(BASE, changes.get("access", "public")),
    )


# ------------------------------------------------------------------------------------------------- what follows


def _derived(facts: Facts, changes: Mapping[str, Any], absent: Sequence[type]) -> Facts:
    config, tensors, base_config = facts.get(AdapterConfig), facts.get(AdapterTensors), facts.get(BaseConfig)
    for fact in (config, tensors, base_config):
        if isinstance(fact, Missing):
            return facts.lacking(fact, BaseModules, Fit, Comparison, BaseCopies, LoadOutcome, RunOutcome)
    assert isinstance(config, AdapterConfig)
    assert isinstance(tensors, AdapterTensors)
    assert isinstance(base_config, BaseConfig)
    told, refusal = _tuples(changes.get("load", {})), Refusal(**changes["refusal"]) if "refusal" in changes else None
    if told.get("died") or (refusal is not None and refusal.stage.startswith("base")):
        outcome = LoadOutcome(**{"extent": "skeleton", "refusal": refusal, **told})
        return _without(facts.adding(outcome), (BaseModules, Fit, Comparison, BaseCopies, RunOutcome))
    modules = facts.get(BaseModules)
    if isinstance(modules, Missing):
        return facts.lacking(modules, Fit, Comparison, BaseCopies).adding(*_clean(tensors, told, changes))
    fit = _fit(config, tensors, modules, base_config, changes.get("measured"))
    if isinstance(fit, Fit) and refusal is not None:
        fit = replace(fit, refusal=refusal)
    if isinstance(fit, Missing) or Fit in absent:
        return facts.lacking(Missing("the fit is not known"), Fit, Comparison, BaseCopies).adding(
            *_clean(tensors, told | ({"refusal": refusal} if refusal else {}), changes)
        )
    copies = BaseCopies(**({changes.get("copies", "unread"): frozenset(fit.overwriting)} if fit.overwriting else {}))
    facts = facts.adding(fit, copies, compare(tensors, modules, fit, base_config))
    return facts.adding(replace(_outcome(fit, config, tensors, modules), **told), _run(changes))


def _fit(
    config: AdapterConfig, tensors: AdapterTensors, base: BaseModules, base_config: BaseConfig, measured: Any
) -> Fit | Missing:
    if measured is None:
        return foretell(config, tensors, base, base_config.model_type)
    places = tensors.shapes
    if measured is not True:
        places = {name: tuple(shape) for pattern, shape in measured.items() for name in expand(pattern)}
    weights = base_weight_keys(base, ())
    there = {canonical(key): key for key in tensors if canonical(key) in places}
    return Fit(
        "measured",
        places,
        strays=tuple(key for key in tensors if key not in there.values() and key not in weights),
        vacant=tuple(place for place in places if place not in there),
        clashes=tuple(
            Clash(key, tensors.shapes[key], places[place])
            for place, key in there.items()
            if tensors.shapes[key] != places[place]
        ),
        overwriting=tuple(key for key in tensors if key not in there.values() and key in weights),
    )


def _outcome(fit: Fit, config: AdapterConfig, tensors: AdapterTensors, base: BaseModules) -> LoadOutcome:
    """The load, had PEFT done what the fit says."""
    refusal = fit.refusal
    if refusal is None and fit.clashes:
        lines = [
            f"\tsize mismatch for {one.key}: copying a param with shape torch.Size({list(one.in_file)}) from"
            f" checkpoint, the shape in current model is torch.Size({list(one.in_model)})." for one in fit.clashes
        ]  # fmt: skip
        text = "\n".join(["Error(s) in loading state_dict for PeftModelForCausalLM:", *lines])
        refusal = Refusal("assign", "RuntimeError", text)
    if refusal is not None and refusal.stage == "inject":
        return LoadOutcome("skeleton", base.class_name, refusal=refusal)
    scaling = {}
    if config.peft_type == "LORA":
        try:
            scaling = {module: scaling_of(config, module) for module in fit.targeted}
        except (TypeError, ValueError) as error:  # as PEFT does, while it builds the layers
            return LoadOutcome("skeleton", base.class_name, refusal=Refusal("inject", type(error).__name__, str(error)))
    return LoadOutcome(
        "skeleton", base.class_name, len(tensors), len(tensors) - len(fit.strays) - len(fit.clashes), fit.strays,
        fit.vacant, fit.clashes, fit.overwriting, refusal, scaling=scaling,
    )  # fmt: skip


def _clean(
    tensors: AdapterTensors, told: Mapping[str, Any], changes: Mapping[str, Any]
) -> tuple[LoadOutcome, RunOutcome]:
    return LoadOutcome(**{"extent": "skeleton", "in_file": len(tensors), "landed": len(tensors), **told}), _run(changes)


def _run(changes: Mapping[str, Any]) -> RunOutcome:
    given = dict(changes.get("run", {}))
    if "refusal" in given:
        given["refusal"] = Refusal(**given["refusal"])
    return RunOutcome(**{"difference": 0.5, **given})


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


# ------------------------------------------------------------------------------------------------------- on disk


def write(folder: Path) -> tuple[Path, Path]:
    """The healthy patient as files: the folders of its base and its adapter, in ``folder``."""
    base, adapter = folder / "base", folder / "adapter"
    tensors = _tensors(AdapterConfig(CONFIG), BaseConfig(BASE_CONFIG), {})
    weights = {name: ("F32", shape) for name, shape in _modules(BaseConfig(BASE_CONFIG), "CAUSAL_LM", {}).parameters()}
    for place, config, config_name, contents, weights_name, further, text in (
        (base, BASE_CONFIG, "config.json", weights, "model.safetensors", "tokenizer.json", TOKENIZER),
        (adapter, CONFIG, CONFIG_FILE, tensors, WEIGHTS_FILE, "README.md", README),
    ):
        place.mkdir()
        (place / further).write_text(text, encoding="utf-8")
        first, size = header(contents)
        values = struct.pack("<f", PEAK) * ((size - len(first)) // 4)
        (place / config_name).write_text(json.dumps(config), encoding="utf-8")
        (place / weights_name).write_bytes(first + values)
    return base, adapter
