"""Gather the facts that only a load can tell: the base's modules, where the tensors went, what was raised."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adapter_doctor.facts import (
    AdapterConfig,
    AdapterTensors,
    BaseConfig,
    BaseModules,
    Clash,
    Environment,
    Facts,
    Fit,
    LoadOutcome,
    Missing,
    Module,
    Refusal,
    RunOutcome,
)
from adapter_doctor.formats.adapter_keys import parse

# What healthy loads print, so that it tells nothing about this one (each seen on adapters that work).
_NOISE = re.compile(
    r"is_gradient_checkpointing|copying from a non-meta parameter|Could not find a config file in"
    r"|(rank|alpha)_pattern keys did not match|BOFT|fbd_cuda|Unsupported layer type|has no bias|`lora_bias=True`"
    r"|Unexpected keyword arguments|DeprecationWarning|FutureWarning|PendingDeprecationWarning|ResourceWarning"
    r"|Found missing adapter keys|tie_word_embeddings|PRNG key|ensure_weight_tying|pkg_resources|SyntaxWarning"
)


def labels_in(tensors: AdapterTensors) -> int | None:
    """Number of classes that a saved classification head has, read off its rows."""
    for name, info in tensors.tensors.items():
        module, _, last = name.rpartition(".")
        if (
            last == "weight"
            and len(info.shape) == 2
            and re.search(r"(^|\.)(score|classifier|qa_outputs|out_proj)$", module)
        ):
            return info.shape[0]
    return None


_HEADS = {"SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification"}


def _lacks_head(config: AdapterConfig, base_config: BaseConfig) -> bool:
    """Whether the task, or the class that PEFT recorded where no task was set, has a head that the base lacks."""
    recorded = config.get("auto_mapping")
    name = recorded.get("base_model_class") if isinstance(recorded, Mapping) else None
    kind = _HEADS.get(config.task_type) or next((one for one in _HEADS.values() if str(name).endswith(one)), None)
    return kind is not None and not any(one.endswith(kind) for one in base_config.architectures)


def load_request(
    base: str,
    adapter: str | None,
    config: AdapterConfig,
    tensors: AdapterTensors,
    base_config: BaseConfig,
    **options: Any,
) -> dict[str, Any]:
    """The request for the child: what to load, and what helps it choose the base's class.

    A base without a head for the task gets one with as many labels as the adapter's own, as its user would ask for.
    """
    paths = {parsed.module for parsed in map(parse, tensors) if parsed is not None and parsed.module}
    task = config.task_type
    return {
        "base": base,
        "adapter": adapter,
        "task_type": task,
        "peft_type": config.peft_type,
        "auto_mapping": config.get("auto_mapping"),
        "labels": labels_in(tensors) if _lacks_head(config, base_config) else None,
        "paths": sorted(paths)[:5000],
        **options,
    }


def read_answer(facts: Facts, answer: Mapping[str, Any], extent: str, origin: str = "skeleton") -> Facts:
    """``facts`` with what the child answered."""
    versions = dict(answer.get("versions") or {})
    known = facts.get(Environment)
    python = versions.pop("python", None) or ""
    packages = {**(known.packages if isinstance(known, Environment) else {}), **versions}
    facts = facts.adding(Environment(python, packages))
    trouble = answer.get("import_error") or answer.get("crashed")
    if trouble:
        return facts.lacking(Missing(f"the load could not begin: {trouble}"), BaseModules, Fit, LoadOutcome)
    if "base" in answer:
        facts = facts.adding(modules_from(answer["base"], "checkpoint" if answer.get("stand_in") else origin))
    if "needs_values" in answer:
        why = Missing(
            f"{answer['needs_values']} builds its parameters from the base's own weights; only `--load full` can tell"
        )
        return facts.lacking(why, Fit, LoadOutcome)
    refusal = Refusal(**answer["refusal"]) if answer.get("refusal") else None
    clashes = tuple(_clash(entry) for entry in answer.get("clashes", ()))
    run = answer.get("run")
    outcome = LoadOutcome(
        extent="full" if extent == "full" else "skeleton",
        class_name=str(answer.get("class_name", "")),
        in_file=int(answer.get("in_file", 0)),
        landed=int(answer.get("landed", 0)),
        ignored=tuple(answer.get("ignored", ())),
        left_at_init=tuple(answer.get("left_at_init", ())),
        clashes=clashes,
        overwritten=tuple(answer.get("overwritten", ())),
        refusal=refusal,
        warnings=tuple(text for text in answer.get("warnings", ()) if not _NOISE.search(text)),
        scaling=dict(answer.get("scaling", {})),
        changed_base=tuple(answer.get("changed_base", ())),
        stand_in=bool(answer.get("stand_in")),
        pass_refused=_told_of_the_pass(answer),
    )
    facts = facts.adding(outcome, *([_run(run)] if run else []))
    if refusal is not None and refusal.stage.startswith("base"):
        return facts.lacking(Missing(f"transformers could not build the base: {refusal.line}"), BaseModules, Fit)
    if "places" not in answer and refusal is None:
        return facts.lacking(Missing("there was no adapter to load"), Fit)
    return facts.adding(
        Fit(
            origin="measured",
            places={key: tuple(shape) for key, shape in answer.get("places", {}).items()},
            targeted=tuple(answer.get("targeted", ())),
            strays=outcome.ignored,
            vacant=outcome.left_at_init,
            clashes=clashes,
            overwriting=outcome.overwritten,
            converted=bool(answer.get("converted")),
            refusal=refusal if refusal is not None and not clashes else None,
        )
    )


def modules_from(tree: Mapping[str, Any], origin: Any) -> BaseModules:
    """The module tree as the child (or the cache) writes it."""
    return BaseModules(
        {
            name: Module(kind, {key: tuple(shape) for key, shape in own.items()}, class_name, groups)
            for name, (kind, class_name, own, groups) in tree["modules"].items()
        },
        origin,
        tree.get("class_name", ""),
        tree.get("output_embedding"),
        bool(tree.get("tied")),
    )


def _clash(entry: Any) -> Clash:
    key, in_file, in_model = entry
    return Clash(key, tuple(in_file), tuple(in_model))


def _told_of_the_pass(answer: Mapping[str, Any]) -> str | None:
    """What is foretold of the first pass; nothing where it was made, which says more."""
    told = answer.get("pass_refused", "")
    return str(told) if told is not None else "" if answer.get("run") else None


def _run(run: Mapping[str, Any]) -> RunOutcome:
    if "error" in run:
        return RunOutcome(refusal=Refusal(run["stage"], run["error"], run["message"]))
    return RunOutcome(float(run["difference"]), bool(run["finite"]), bool(run["finite_without"]))
