"""What is known about the releases of PEFT and the architectures of transformers: tables, each read when first asked.

`scripts/build_knowledge.py` writes them. Every function answers from the tables alone: PEFT and transformers need not
be installed, and what is installed does not change an answer.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Targets = list[str] | str

FOR_TRAINING = frozenset(
    {
        "auto_mapping", "corda_config", "eva_config", "init_lora_weights", "init_weights", "loftq_config",
        "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size", "rank_dropout_scale", "revision",
        "runtime_config", "tokenizer_kwargs", "velora_config",
    }
)  # fmt: skip
"""Fields of configs that only training, or the record of it, reads: a load without them gives the same model."""


@dataclass(frozen=True, slots=True)
class TypeSpan:
    """The first and last PEFT release that has a PEFT type; ``last`` is None where the newest still has it."""

    first: str
    last: str | None


@dataclass(frozen=True, slots=True)
class FieldSpan:
    """One field of a config class: the releases that have it, its newest annotation, and every default it has had.

    A default is the text of a Python expression, ``factory:dict`` and the like, or ``required``; ``defaults`` pairs
    each with the release that brought it. ``saved`` is False for a field that PEFT keeps out of `adapter_config.json`.
    """

    first: str
    last: str | None
    type: str
    defaults: tuple[tuple[str, str], ...]
    saved: bool = True

    @property
    def default(self) -> str:
        """The default in the newest release that has the field."""
        return self.defaults[-1][1]

    def is_in(self, release: str) -> bool:
        """Whether a release, one of :func:`releases`, has the field."""
        order = releases().index
        return order(self.first) <= order(release) <= order(self.last or releases()[-1])

    def is_default(self, value: Any) -> bool:
        """Whether a value is what PEFT takes where the field is absent, in any release; empty stands for empty."""
        return any(_stands_for(value, text) for _, text in self.defaults)


@dataclass(frozen=True, slots=True)
class ImportBreak:
    """Releases of PEFT that cannot be imported beside some versions of transformers (a version specifier)."""

    peft: tuple[str, ...]
    transformers: str
    error: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """What transformers has for a model type.

    ``classes`` maps PEFT's task types, and ``BASE``, ``IMAGE_CLS``, ``IMAGE_TEXT``, ``MASKED_LM`` and ``SPEECH``, to
    the names of classes. ``converted`` says that transformers renames or rearranges the tensors of a checkpoint when it
    loads one: module names then are not always those in the file. A composite model is judged with the parts it has by
    default; where its config names others (`text_config.model_type` and the like), they have entries of their own.
    ``conv1d`` says that linear layers are `transformers.pytorch_utils.Conv1D`, whose weights are (in_features,
    out_features). ``transposed`` says that stacked experts are (experts, in_features, out_features).
    """

    prefix: str | None
    other_prefixes: Mapping[str, str]
    classes: Mapping[str, str]
    converted: bool
    conv1d: bool
    transposed: bool = False

    def prefix_for(self, task: str) -> str | None:
        """The attribute under which the class for a task keeps its trunk, its `base_model_prefix`.

        It differs between the heads of one type: `LlamaForQuestionAnswering` has `transformer`, the others `model`. It is
        empty where the class has no such attribute, as T5's and Llama 4's.
        """
        return self.other_prefixes.get(task, self.prefix)


@dataclass(frozen=True, slots=True)
class Conversion:
    """One step in which transformers turns the tensor names of a checkpoint (patterns ``sources``) into its own.

    ``kind`` is ``rename``; ``group`` (pairwise, and only if the checkpoint has a name that the first pattern matches);
    ``offset`` (the number captured changes by ``offset``); or ``convert``, which also computes with the tensors:
    ``operations`` in order, e.g. `MergeModulelist(dim=0)`. All other steps apply in their order, then at most one
    ``convert``. Patterns are searched for as `core_model_loading` of transformers does: ``*.`` stands for ``.*\\.``,
    and a pattern that ends in a letter or digit ends at the end of a word. What is registered for a part of a model
    sees names without the path of that part.
    """

    kind: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    operations: tuple[str, ...] = ()
    offset: int = 0


# ------------------------------------------------------------------------------------------------ releases of PEFT


@cache
def releases() -> tuple[str, ...]:
    """The PEFT releases that the tables cover, oldest first."""
    return tuple(_table("peft_fields")["releases"])


def release_at(version: str) -> str:
    """The newest release that is not newer than a version, or the oldest; the newest of all if it is no version.

    A development version (``0.18.1.dev0@a1b2c3``) counts as the release that it is numbered for.
    """
    numbers = _numbers(version)
    if not numbers:
        return releases()[-1]
    return max((release for release in releases() if _numbers(release) <= numbers), key=_numbers, default=releases()[0])


def is_version(version: str) -> bool:
    """Whether a text is a version's number at all."""
    return bool(_numbers(version))


@cache
def import_breaks() -> tuple[ImportBreak, ...]:
    """The pairs of PEFT and transformers that are installed without complaint and do not import together."""
    rows = _table("peft_fields")["import_breaks"]
    return tuple(ImportBreak(tuple(row["peft"]), row["transformers"], row["error"]) for row in rows)


@cache
def peft_types() -> Mapping[str, TypeSpan]:
    """Every PEFT type that any release has had."""
    return {name: TypeSpan(row["first"], row["last"]) for name, row in _table("peft_fields")["types"].items()}


@cache
def fields_of(peft_type: str) -> Mapping[str, FieldSpan]:
    """Every field that the config class of a PEFT type has had, inherited ones included; none for an unknown type."""
    return _fields("types", peft_type)


@cache
def subconfig_fields(class_name: str) -> Mapping[str, FieldSpan]:
    """Every field of a config inside a config, by its class: `LoftQConfig`, `EvaConfig`, `ArrowConfig` …"""
    return _fields("subconfigs", class_name)


def oldest_release_reading(config: Mapping[str, Any]) -> str | None:
    """The oldest release whose config class for this PEFT type has every key of the config; None if no release has.

    It matters because 0.6.0 to 0.13.2 raise `TypeError` for a key they do not know, and the others go on without it.
    """
    fields = fields_of(str(config.get("peft_type")))
    if not config.keys() <= fields.keys():
        return None
    return next((release for release in releases() if all(fields[key].is_in(release) for key in config)), None)


def written_by(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """The oldest and newest release whose saved config has the keys of this one, judged by the keys alone.

    PEFT saves every field of the class. Where no release has exactly these keys, those count that leave the fewest of
    them unexplained and, among those releases, the ones that would have added the fewest. None for an unknown PEFT
    type, and where more than half of what even these releases save is not there: a config written by hand.
    """
    known = _saved_keys(str(config.get("peft_type")))
    if not known:
        return None
    distance = {release: (len(config.keys() - keys), len(keys - config.keys())) for release, keys in known.items()}
    best = [release for release, value in distance.items() if value == min(distance.values())]
    by_hand = len(known[best[0]] & config.keys()) * 2 < len(known[best[0]])
    return None if by_hand else (best[0], best[-1])


def origin(config: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(the PEFT that wrote a config, the oldest release that has all its fields), each None where it cannot be told.

    What the config records as ``peft_version`` counts; else it is a release or a range of them, judged by the keys.
    """
    recorded, told = config.get("peft_version"), written_by(config)
    writer = " to ".join(dict.fromkeys(told)) if told else None
    known = isinstance(recorded, str) and 0 < len(recorded) <= 40
    return recorded if known else writer, oldest_release_reading(config)


def unknown_fields(config: Mapping[str, Any], peft_version: str) -> dict[str, FieldSpan | None]:
    """The keys of a config that a PEFT version does not have for its type, each with what other releases know of it.

    ``first`` is the release that brought the field, ``last`` (if set) the one after which it was removed; None means
    that no release has it. Nothing is said about the fields of a PEFT type that the version does not have.
    """
    fields = fields_of(str(config.get("peft_type")))
    release = release_at(peft_version)
    if "peft_type" not in fields or not fields["peft_type"].is_in(release):
        return {}
    return {key: fields.get(key) for key in config if key not in fields or not fields[key].is_in(release)}


# ------------------------------------------------------------------------------------------------ modules by default


def default_targets(peft_type: str, model_type: str) -> Targets | None:
    """What PEFT puts for ``target_modules`` when a config leaves it out; None where it then asks for them."""
    return _of_model(_table("peft_targets")["targets"].get(peft_type), model_type)


def default_feedforward(model_type: str) -> Targets | None:
    """What PEFT puts for ``feedforward_modules`` when the config of an IA3 adapter leaves it out."""
    return _of_model(_table("peft_targets")["feedforward"], model_type)


def modules_saved_for(task_type: str) -> tuple[str, ...]:
    """The names that PEFT adds to ``modules_to_save`` for a task type by itself."""
    return tuple(_table("peft_targets")["saved_by_task"].get(task_type, ()))


def task_types() -> tuple[str, ...]:
    """The task types that PEFT knows."""
    return tuple(_table("peft_targets")["saved_by_task"])


def parameter_prefix(peft_type: str) -> str | None:
    """What the parameter names of a PEFT type begin with, e.g. ``lora_``."""
    prefix: str | None = _table("peft_targets")["prefixes"].get(peft_type)
    return prefix


def embedding_layers() -> tuple[str, ...]:
    """The module names that PEFT takes for embeddings, input and output."""
    return tuple(_table("peft_targets")["embedding_layers"])


def classifier_heads() -> tuple[str, ...]:
    """The module names that PEFT takes for the head of a sequence classifier."""
    return tuple(_table("peft_targets")["classifier_heads"])


# ------------------------------------------------------------------------------------------------ architectures


def transformers_version() -> str:
    """The version of transformers that the architectures were read from."""
    version: str = _table("architectures")["transformers"]
    return version


@cache
def architecture(model_type: str) -> Architecture | None:
    """What transformers has for the ``model_type`` of a `config.json`; None if it has no such type."""
    row = _table("architectures")["types"].get(model_type)
    if row is None:
        return None
    others = row.get("other_prefixes", {})
    return Architecture(row["prefix"], others, row["classes"], row["converted"], row["conv1d"], row["transposed"])


@cache
def conversions(model_type_or_class: str) -> tuple[Conversion, ...]:
    """The steps registered under a model type or the name of a class; a class's own replace those of its type.

    Under ``legacy`` are those that transformers applies to every model.
    """
    table = _table("architectures")
    name = table["conversion_aliases"].get(model_type_or_class, model_type_or_class)
    return tuple(
        Conversion(
            step["kind"], tuple(step["from"]), tuple(step["to"]), tuple(step.get("ops", ())), step.get("offset", 0)
        )
        for step in table["conversions"].get(name, ())
    )


# ------------------------------------------------------------------------------------------------ reading


@cache
def _table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))
    return table


def _fields(section: str, name: str) -> dict[str, FieldSpan]:
    rows = _table("peft_fields")[section].get(name, {"fields": {}})["fields"]
    return {
        field: FieldSpan(
            row["first"],
            row["last"],
            row["type"],
            tuple((release, default) for release, default in row["defaults"]),
            row.get("saved", True),
        )
        for field, row in rows.items()
    }


@cache
def _saved_keys(peft_type: str) -> dict[str, frozenset[str]]:
    fields = fields_of(peft_type)
    by_release = {
        release: frozenset(name for name, field in fields.items() if field.saved and field.is_in(release))
        for release in releases()
    }
    return {release: keys for release, keys in by_release.items() if keys}


def _of_model(targets: dict[str, Targets] | str | None, model_type: str) -> Targets | None:
    while isinstance(targets, str):  # one type's table is often a copy of another's
        targets = _table("peft_targets")["targets"][targets]
    return (targets or {}).get(model_type, (targets or {}).get("*"))


def later(version: str, than: str) -> bool:
    """Whether one release comes after another, by their numbers; a version without numbers comes first."""
    return _numbers(version) > _numbers(than)


def _stands_for(value: Any, text: str) -> bool:
    """Whether a value is the one that the text of a default, as in :class:`FieldSpan`, makes."""
    if text.startswith("factory:"):
        return not value and not isinstance(value, (int, float))
    try:
        default = ast.literal_eval(text)
    except (ValueError, SyntaxError):  # an enum's member, such as PromptTuningInit.RANDOM
        return isinstance(value, str) and value == text.rpartition(".")[2]
    if value == default:
        return True
    both = (value, default)
    return not any(both) and not any(isinstance(one, (int, float)) and not isinstance(one, bool) for one in both)


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(number) for number in found[0].split(".")) if found else ()
