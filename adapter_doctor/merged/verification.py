"""Prove that a merged model contains an adapter: every tensor read once, block by block, and held against the base's."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from adapter_doctor.facts import (
    AdapterConfig,
    AdapterTensors,
    BaseCheckpoint,
    BaseConfig,
    Facts,
    Missing,
    TensorInfo,
)
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.formats.buffers import BUFFERS
from adapter_doctor.formats.safetensors_header import BadHeader
from adapter_doctor.gather.adapter import gather_adapter
from adapter_doctor.gather.base import gather_base, read_header
from adapter_doctor.merged.measure import Fate, equal, measure
from adapter_doctor.merged.numbers import READABLE, Tensors
from adapter_doctor.merged.updates import Expected, Names, Update, expected
from adapter_doctor.sources import Source, Unreachable
from adapter_doctor.sources.disk import DiskSource

Verdict = Literal["merged", "not merged", "undetermined"]


@dataclass(frozen=True)
class Verification:
    """What was found. ``problems`` say why it is no merge of this adapter, ``doubts`` what could not be looked at.

    ``fates`` maps each fate (see :class:`adapter_doctor.merged.measure.Measured`) to the modules that have it.
    """

    fates: Mapping[Fate, tuple[str, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """``merged`` only if every update is there and everything else is the base's."""
        return "not merged" if self.problems else "undetermined" if self.doubts else "merged"

    @property
    def exit_code(self) -> int:
        """0 merged, 1 not merged, 3 undetermined."""
        return {"merged": 0, "not merged": 1, "undetermined": 3}[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, schema 1."""
        return {
            "schema": 1,
            "verdict": self.verdict,
            "fates": {fate: list(modules) for fate, modules in self.fates.items()},
            "problems": list(self.problems),
            "doubts": list(self.doubts),
            "notes": list(self.notes),
        }


def verify(
    base: Source, adapter: Source, merged: Source, progress: Callable[[str], None] | None = None
) -> Verification:
    """Whether ``merged`` is ``base`` with ``adapter`` in it."""
    facts = gather_base(base, gather_adapter(adapter, Facts()))
    result = gather_base(merged, Facts())
    config, tensors = facts.get(AdapterConfig), facts.get(AdapterTensors)
    base_config, checkpoint, there = facts.get(BaseConfig), facts.get(BaseCheckpoint), result.get(BaseCheckpoint)
    for part, fact in (("adapter", config), ("adapter", tensors), ("base", base_config), ("base", checkpoint), ("merged model", there)):  # fmt: skip
        if isinstance(fact, Missing):
            return Verification(doubts=(f"the {part} could not be read: {fact.why}",))
    assert isinstance(config, AdapterConfig)
    assert isinstance(tensors, AdapterTensors)
    assert isinstance(base_config, BaseConfig)
    assert isinstance(checkpoint, BaseCheckpoint)
    assert isinstance(there, BaseCheckpoint)
    inside = [name for name in there.tensors if parse(name) is not None]
    wrapped = [name for name in there.tensors if ".base_layer." in name]
    if inside or wrapped:
        first = (inside or wrapped)[0]
        return Verification(problems=(
            f"the merged model still holds {len(inside) + len(wrapped)} tensors of the adapter, such as {first!r}: it was saved"
            " without `model = model.merge_and_unload()`",
        ))  # fmt: skip
    if config.peft_type != "LORA":
        return Verification(
            doubts=(f"the merge of {config.peft_type or 'this type'} is not followed here, only LoRA's",)
        )
    if base_config.quantization is not None:
        return Verification(doubts=("the base is quantised: give the base in full precision that it was made from",))
    if isinstance(merged_config := result.get(BaseConfig), BaseConfig) and merged_config.quantization is not None:
        return Verification(doubts=("the merged model is quantised: give it as it was before it was quantised",))
    if any(info.file.endswith(".bin") for info in tensors.tensors.values()):
        return Verification(doubts=("the adapter is a pickle: convert it with `adapter-doctor fix` first",))
    wanted = expected(config, tensors, checkpoint.tensors, base_config)
    try:
        files = [
            _fetched(source, infos)
            for source, infos in ((adapter, tensors.tensors), (base, checkpoint.tensors), (merged, there.tensors))
        ]
    except Unreachable as trouble:
        return Verification(doubts=(f"the weights could not be had: {trouble.why}",))
    except BadHeader as trouble:
        return Verification(doubts=(f"the weights could not be read: {trouble}",))
    with contextlib.ExitStack() as stack:
        own, before, after = (stack.enter_context(contextlib.closing(Tensors(*one))) for one in files)
        names = Names(there.tensors, base_config)
        try:
            configs = base_config, result.get(BaseConfig)
            return _compared(wanted, own, before, after, names, configs, progress or (lambda _: None))
        except (OSError, ValueError) as trouble:
            return Verification(doubts=(f"the weights could not be read: {trouble}",))


def _fetched(source: Source, infos: Mapping[str, TensorInfo]) -> tuple[Path, Mapping[str, TensorInfo]]:
    """The folder that the files lie in, and where in them the tensors do: of shards on the Hub only some were read."""
    names = sorted({info.file for info in infos.values()})
    paths = source.fetch_all(names)
    folder = paths[names[0]].parent if names else Path()
    disk, whole = DiskSource(folder, source.reference), dict(infos)
    for name in sorted({info.file for info in infos.values() if info.count and not info.start}):
        whole |= read_header(disk, name, paths[name].stat().st_size).tensors
    return folder, whole


def _compared(
    wanted: Expected,
    adapter: Tensors,
    base: Tensors,
    merged: Tensors,
    names: Names,
    configs: tuple[BaseConfig, BaseConfig | Missing],
    progress: Callable[[str], None],
) -> Verification:
    fates: dict[Fate, list[str]] = defaultdict(list)
    shares: dict[str, float] = {}
    problems: list[str] = []
    doubts = [f"{module}: {why}" for module, why in list(wanted.unknown.items())[:3]]
    if len(wanted.unknown) > 3:
        doubts.append(f"and {len(wanted.unknown) - 3} more modules that are not followed")
    if not (wanted.updates or wanted.replacements or wanted.unknown):
        doubts.append("the adapter has no tensors, so there is nothing to look for")
    lost: list[str] = []
    for number, update in enumerate(wanted.updates):
        progress(f"comparing {number + 1} of {len(wanted.updates)}: {update.module}")
        name = names.find(update.tensor)
        info = merged.infos[name] if name is not None else None
        if info is None or info.shape != base.infos[update.tensor].shape:
            lost.append(update.tensor)
        elif unread := _unread(update, base, info):
            doubts.append(f"{update.module} is in a format that is not read here ({unread})")
        else:
            found = measure(update, adapter, base, merged, info)
            fates[found.fate].append(update.module)
            shares[update.module] = found.share
    if lost:
        problems.append(f"{len(lost)} of the tensors that the adapter changes are not in the merged model, such as {lost[0]!r}")  # fmt: skip
    problems += _told(fates, shares, wanted.updates)
    unsaved = [
        one.tensor for one in wanted.replacements if not _same(adapter, one.info, merged, names.find(one.tensor))
    ]
    if unsaved:
        problems.append(f"{len(unsaved)} of {len(wanted.replacements)} tensors that the adapter brings whole are not the merged model's, such as {unsaved[0]!r}")  # fmt: skip
    more_problems, more_doubts = _elsewhere(wanted, base, merged, names, configs, progress)
    problems, doubts = problems + more_problems, doubts + more_doubts
    if fates.get("vanished"):
        doubts.append(f"{len(fates['vanished'])} updates are smaller than the merged model's number format can hold")
    notes = (f"{len(fates.get('merged', ()))} of {len(wanted.updates)} updates are in the merged model",)
    return Verification(
        {fate: tuple(modules) for fate, modules in fates.items()}, tuple(problems), tuple(doubts), notes
    )


def _unread(update: Update, base: Tensors, info: TensorInfo) -> str:
    """The number format among those involved that is not read here; empty where there is none."""
    involved = (info, base.infos[update.tensor], update.down, update.up, update.magnitude)
    return next((one.dtype for one in involved if one is not None and one.dtype not in READABLE), "")


def _same(adapter: Tensors, info: TensorInfo, merged: Tensors, name: str | None) -> bool:
    return name is not None and _alike(adapter, info, merged, merged.infos[name])


def _alike(one: Tensors, first: TensorInfo, two: Tensors, second: TensorInfo) -> bool:
    readable = first.dtype == second.dtype or {first.dtype, second.dtype} <= READABLE
    return readable and equal(one, first, two, second)


def _told(fates: Mapping[Fate, Sequence[str]], shares: Mapping[str, float], updates: Sequence[Update]) -> list[str]:
    """What the fates of the updates say, worst first."""
    said = []
    count = len(updates)
    scaling = {one.module: one.scaling for one in updates}

    def some(fate: Fate) -> tuple[int, str]:
        modules = fates.get(fate, ())
        return len(modules), modules[0] if modules else ""

    number, first = some("base")
    if number and number == count:
        said.append(f"all {count} tensors that the adapter changes equal the base's: the adapter is not in it")
    elif number:
        said.append(f"{number} of {count} tensors that the adapter changes equal the base's, such as {first}: the merge is partial")  # fmt: skip
    number, first = some("twice")
    if number:
        said.append(f"{number} of {count} updates are in it twice, such as {first}: it was merged into a model that was merged already")  # fmt: skip
    number, first = some("scaled")
    if number:
        said.append(
            f"{number} of {count} updates are in it at another scaling, such as {first}:"
            f" {shares[first] * scaling[first]:.3g}, expected {scaling[first]:.3g} (lora_alpha over r, or its root)"
        )
    number, first = some("elsewhere")
    if number:
        said.append(
            f"{number} of {count} tensors are neither the base's nor base plus update, such as {first}"
            f" ({shares[first]:.0%} of the update is there): merged on other weights, such as a quantised base, or another scaling"
        )
    return said


def _elsewhere(
    wanted: Expected,
    base: Tensors,
    merged: Tensors,
    names: Names,
    configs: tuple[BaseConfig, BaseConfig | Missing],
    progress: Callable[[str], None],
) -> tuple[list[str], list[str]]:
    """Problems and doubts about tensors that the adapter does not touch and that are not the base's."""
    touched = {one.tensor for one in wanted.updates} | {one.tensor for one in wanted.replacements}
    changed, gone, rest = [], [], [name for name in base.infos if name not in touched]
    known = {names.find(name) for name in touched}
    for number, tensor in enumerate(rest):
        if number % 50 == 0:
            progress(f"comparing the rest: {number} of {len(rest)}")
        name = names.find(tensor)
        known.add(name)
        if name is None:
            gone.append(tensor)
        elif not _alike(base, base.infos[tensor], merged, merged.infos[name]):
            changed.append(tensor)
    gone = [one for one in gone if not BUFFERS.search(one) and not _tied(one, base, names, configs[1])]
    more = [one for one in merged.infos if one not in known and not BUFFERS.search(one)]
    more = [one for one in more if not _tied(one, merged, names, configs[1])]
    problems, doubts = [], []
    if changed:
        differ = f"{len(changed)} of {len(rest)} tensors that the adapter does not touch differ from the base's, such as {changed[0]!r}"  # fmt: skip
        if wanted.unknown:
            doubts.append(f"{differ}, which what is not followed may have changed")
        else:
            problems.append(differ)
    if gone:
        absent = f"{len(gone)} of {len(rest)} tensors that the adapter does not touch are not there, such as {gone[0]!r}"  # fmt: skip
        if not _only_a_head(gone, merged, configs):
            problems.append(absent)
        elif not any(one.of_task for one in wanted.replacements):  # else the adapter's own head stands in its place
            doubts.append(f"{absent}: the merged model is of another class than the base, without this head")
    if more:
        doubts.append(f"{len(more)} tensors of the merged model are not in the base, such as {more[0]!r}")
    return problems, doubts


def _tied(name: str, tensors: Tensors, names: Names, config: BaseConfig | Missing) -> bool:
    """Whether a tensor is a copy of another of its model that the merged one has, as a tied head is of the embedding."""
    tied = isinstance(config, BaseConfig) and config.raw.get(
        "tie_word_embeddings", config.text.get("tie_word_embeddings")
    )
    own = tensors.infos[name]
    return tied is not False and any(
        other != name and names.find(other) is not None and info.shape == own.shape and info.dtype == own.dtype
        and equal(tensors, own, tensors, info) for other, info in tensors.infos.items() if len(own.shape) == 2
    )  # fmt: skip


def _only_a_head(gone: Sequence[str], merged: Tensors, configs: tuple[BaseConfig, BaseConfig | Missing]) -> bool:
    """Whether models of two classes differ only in what stands on top: no part of the merged model is called so."""
    first, second = configs
    if isinstance(second, Missing) or first.architectures == second.architectures:
        return False
    parts = {name.partition(".")[0] for name in merged.infos}
    return not parts & {name.partition(".")[0] for name in gone}
