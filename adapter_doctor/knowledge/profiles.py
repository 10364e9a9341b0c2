"""What serving engines do with adapters: the profiles in `runtimes/*.toml`, one an engine, and vLLM's model table."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("runtimes")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine does with adapters that have one of ``traits``.

    ``outcome`` is as in :class:`adapter_doctor.facts.Effect`; ``drops`` says that the tensors of the trait have no
    effect. ``message`` is the engine's own text, with ``{fields}`` of the trait. It holds from version ``since`` on and
    before ``until``. ``evidence``: ``ran`` (the engine's own code was run), ``source`` (read in ``source``), ``issue``.
    """

    traits: tuple[str, ...]
    outcome: str
    evidence: str
    source: str
    why: str = ""
    message: str = ""
    fix: str = ""
    flags: str = ""
    drops: bool = False
    since: str = ""
    until: str = ""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How the engine comes by a module's scaling.

    ``rank`` is ``pattern`` (as PEFT: `rank_pattern`, else `r`), ``config`` (`r` for all) or ``tensor`` (the tensor's
    own); ``alpha`` is ``pattern``, ``config`` or ``none`` (the scaling is 1). ``pads``: the rank that the engine takes
    after the first kind of module is padded up to a multiple of 16, and to 8 at least. ``knob`` is the setting with
    which a user can mend one factor for all modules.
    """

    rank: str
    alpha: str
    rslora: bool
    evidence: str
    source: str
    why: str = ""
    knob: str = ""
    pads: bool = False
    since: str = ""
    until: str = ""


@dataclass(frozen=True, slots=True)
class Serves:
    """Architectures (model types or class names; ``*`` is any) and the leaf names of the modules served on them.

    No ``modules`` means any.
    """

    types: tuple[str, ...]
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """Something to paste: ``kind`` says how names are quoted in it (shell, python, json or plain)."""

    kind: str
    text: str


@dataclass(frozen=True)
class Profile:
    """What one engine does with adapters. ``read`` are the versions it was read from, the oldest first.

    ``ranks`` are the ranks that the engine lets a user choose as its largest (empty: any); ``methods`` the PEFT types
    it takes. ``table_since`` says that architectures are looked up in :func:`vllm_model`, whose facts on
    embeddings hold from that release on.
    """

    engine: str
    name: str
    read: tuple[str, ...]
    read_from: str
    methods: tuple[str, ...]
    answers: tuple[Answer, ...]
    scalings: tuple[Scaling, ...] = ()
    serves: tuple[Serves, ...] = ()
    ranks: tuple[int, ...] = ()
    table_since: str = ""
    commands: tuple[Command, ...] = ()

    def answer(self, trait: str, version: str) -> Answer | None:
        """What is known of the engine's conduct towards a trait at a version that was read; None where nothing is."""
        return next((one for one in self.answers if trait in one.traits and _holds(one, version)), None)

    def scaling(self, version: str) -> Scaling | None:
        """How it scales at a version that was read; None where it reads no PEFT files."""
        return next((one for one in self.scalings if _holds(one, version)), None)

    def neighbours(self, version: str) -> tuple[str, ...]:
        """The read versions that speak for a version: itself, the two around it, the newest, or none if it is older."""
        if version in self.read:
            return (version,)
        own = numbers(version)
        if not own or not numbers(self.read[-1]):
            return self.read[-1:]
        older = [one for one in self.read if numbers(one) < own]
        newer = [one for one in self.read if numbers(one) > own]
        return (older[-1], newer[0]) if older and newer else (older[-1],) if older else ()


@dataclass(frozen=True, slots=True)
class VllmModel:
    """What vLLM knows of an architecture: LoRA at all, packed modules, embeddings with LoRA, experts stored stacked."""

    lora: bool
    packed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    embeddings: tuple[str, ...] = ()
    stacked_experts: bool = False


def engines() -> tuple[str, ...]:
    """The names of all engines that have a profile, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


@cache
def profile(engine: str) -> Profile:
    """The profile of an engine.

    Raises:
        KeyError: there is no such profile.
    """
    if engine not in engines():
        raise KeyError(engine)
    raw = tomllib.loads((FOLDER / f"{engine}.toml").read_text("utf-8"))
    tables = {"answers": Answer, "scalings": Scaling, "serves": Serves, "commands": Command}
    rows = {name: tuple(kind(**_frozen(row)) for row in raw.pop(name, ())) for name, kind in tables.items()}
    return Profile(engine=engine, **_frozen(raw), **rows)  # type: ignore[arg-type]  # a test reads every profile


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers to compare; empty for a commit or another text that is no version."""
    found = re.fullmatch(r"[vb]?(\d+(?:\.\d+)*)(?:[.+-]?(?:post|rc|dev|a|b)\S*)?", version)
    return tuple(int(one) for one in found[1].split(".")) if found else ()


def vllm_model(architecture: str) -> VllmModel | None:
    """What vLLM 0.33 knows of a class named in `architectures`; None where it has no class of that name.

    Classifiers that it makes out of a causal model (models/adapters.py as_seq_cls_model) are looked up as that model.
    """
    causal = re.sub(r"For(Sequence|Token)Classification$", "ForCausalLM", architecture)
    row = _vllm_models().get(architecture) or _vllm_models().get(causal)
    if row is None:
        return None
    packed = {name: tuple(parts) for name, parts in row.get("packed", {}).items()}
    return VllmModel(row["lora"], packed, tuple(row.get("embeddings", ())), row.get("stacked_experts", False))


@cache
def _vllm_models() -> dict[str, Any]:
    models: dict[str, Any] = json.loads((FOLDER / "vllm_models.json").read_text("utf-8"))["models"]
    return models


def _holds(one: Answer | Scaling, version: str) -> bool:
    own = numbers(version)
    return not (one.since and own < numbers(one.since)) and not (one.until and own >= numbers(one.until))


def _frozen(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
