"""Gather the facts of a training checkpoint: which files are there and sound, and what they say, without unpickling."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from adapter_doctor.facts import (
    Checkpoint,
    Facts,
    FileState,
    Missing,
    OptimizerState,
    OptimizerValues,
    ResumePlan,
    SchedulerState,
    Shards,
    TensorInfo,
    Trainable,
    TrainableParameters,
    TrainerState,
)
from adapter_doctor.formats import bounded_json, torch_pickle
from adapter_doctor.formats.optimizer_state import NoOptimizerState, plain_fields, read_state
from adapter_doctor.gather.adapter import dangerous
from adapter_doctor.gather.fsdp import distributed, gather_fsdp, gather_whole
from adapter_doctor.gather.zero import gather_zero
from adapter_doctor.sources import Source, Unreachable

STATE, SCHEDULER, SCALER, ARGUMENTS = "trainer_state.json", "scheduler.pt", "scaler.pt", "training_args.bin"
MAX_STATE = 200_000_000
"""Bytes of `trainer_state.json`, which holds the log of the whole run."""
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_NUMPY = re.compile(
    r"(numpy(\._?core)?(\.multiarray)?\.(_reconstruct|ndarray|dtype)|numpy\.dtypes\.\w+|_codecs\.encode)"
)
_CALLED = re.compile(
    r"(builtins|__builtin__)\.(bool|int|float|complex|str|bytes|bytearray|list|tuple|dict|set|frozenset|range|slice|object)"
    r"|collections\.(OrderedDict|defaultdict|deque|Counter)|copy_?reg\._reconstructor|argparse\.Namespace|uuid\.UUID"
    r"|types\.SimpleNamespace|datetime\.\w+|decimal\.Decimal|fractions\.Fraction|pathlib(\._local)?\.\w*Path"
    r"|numpy(\._?core)?\.multiarray\.scalar|numpy\.random\.(_pickle|bit_generator)\.\w+|torch\._utils\._rebuild_\w+"
    r"|(transformers\.(trainer_utils|training_args)|accelerate\.utils\.dataclasses|peft\.utils\.peft_types)\.[A-Z]\w+"
)
"""Beside an engine's own, what may be called as a file is unpickled in full: plain values, and those libraries' enums."""
_STEPS = {"F32": "<f", "F64": "<d", "I64": "<q", "I32": "<i"}
_ENGINES = {
    "deepspeed": re.compile(r"global_step\d+/.*(model|optim)_states\.pt$|latest$|zero_to_fp32\.py$"),
    "fsdp": re.compile(r"(pytorch_model_fsdp(_\d+/.*|.*\.bin)|optimizer_\d+/.*|optimizer_\d+_rank\d+\.bin)$"),
}


# ------------------------------------------------------------------------------------------ which checkpoint is meant


def numbered(files: Mapping[str, int]) -> list[str]:
    """The names of the `checkpoint-N` folders among these files, the highest N first, as the Trainer finds them."""
    found = {name.partition("/")[0] for name in files if "/" in name}
    steps = {name: int(match[1]) for name in found if (match := re.fullmatch(r"checkpoint-(\d+)", name))}
    return sorted(steps, key=lambda name: -steps[name])


def complete(source: Source) -> str:
    """Why a resume cannot be made from this checkpoint; empty where nothing speaks against it at first sight."""
    try:
        files = source.files()
        writer = writer_of(files)
        if writer == "deepspeed" or (writer == "fsdp" and distributed(files)):
            zero = writer == "deepspeed"
            read = gather_zero(source, files, _opened, None) if zero else gather_fsdp(source, files, _opened)
            shards = read[0]
            lost = (*shards.lost, *(() if STATE in files else (STATE,)))
            lacking = [f"it has no {name}" for name in lost] + [f"its {one}: {why}" for one, why in shards.broken]
            lacking += [f"its {shards.empty} holds nothing"] if shards.empty else []
            return lacking[0] if lacking else ""
        if writer != "trainer":
            return ""
        if adapter_folder(files) is None:
            return "it holds no adapter weights"
        for name in (STATE, "optimizer.pt", SCHEDULER):
            if name not in files:
                return f"it has no {name}"
        state = _state_file(source, files)[0]
        for one in (state, _opened(source, "optimizer.pt")[0], _opened(source, SCHEDULER)[0], _weights(source, files)):
            if not one.ok:
                return f"its {one.name} cannot be used: {one.detail}"
    except Unreachable as trouble:
        return trouble.why
    return ""


def adapter_folder(files: Mapping[str, int]) -> str | None:
    """Where the adapter's weights lie: "" for the checkpoint itself, else the folder named after the adapter."""
    if any(name in files for name in _WEIGHTS):
        return ""
    inner = sorted(name.rpartition("/")[0] for name in files if name.endswith(tuple(f"/{one}" for one in _WEIGHTS)))
    return next((name for name in inner if not re.match(r"checkpoint-\d+", name)), None)


def writer_of(files: Mapping[str, int]) -> str:
    """Who wrote the checkpoint, by its files; see :class:`adapter_doctor.facts.Checkpoint`."""
    for engine, pattern in _ENGINES.items():
        if any(pattern.match(name) for name in files):
            return engine
    by_hand = STATE not in files and "optimizer.pt" not in files
    return (
        "accelerate"
        if by_hand and any(re.match(r"random_states_\d+\.pkl|optimizer\.bin", n) for n in files)
        else "trainer"
    )


# ----------------------------------------------------------------------------------------------- what it holds


def gather_training(source: Source, facts: Facts, optimizer: str | None, plan: ResumePlan, **found: Any) -> Facts:
    """``facts`` with those of the checkpoint in ``source``. ``optimizer`` names the file of its state if it is known.

    ``found`` are fields of the :class:`Checkpoint` that tell how it was chosen.
    """
    kinds = (Checkpoint, OptimizerState, OptimizerValues, SchedulerState, TrainerState)
    try:
        files = source.files()
        writer = "torch" if optimizer else writer_of(files)
        optimizer = optimizer or ("optimizer.bin" if writer in ("fsdp", "accelerate") else "optimizer.pt")
        states, values = {}, {}
        for name in (optimizer, SCHEDULER, "scheduler.bin", SCALER, ARGUMENTS, *sorted(filter(_random, files))[:4]):
            if name in files:
                states[name], values[name] = _opened(source, name)
        if STATE in files:
            states[STATE], values[STATE] = _state_file(source, files)
    except Unreachable as trouble:
        return facts.adding(plan).lacking(Missing(f"the checkpoint could not be read: {trouble.why}"), *kinds)
    scheduler = SCHEDULER if SCHEDULER in states else "scheduler.bin"
    state, kept = _optimizer_facts(source, optimizer, writer, states, values.get(optimizer))
    shards: Shards | None = None
    if writer == "deepspeed":
        shards, kept = gather_zero(source, files, _opened, partial(_number, source))
    elif writer == "fsdp" and distributed(files):
        shards, kept = gather_fsdp(source, files, _opened)
    elif writer == "fsdp":
        shards = gather_whole(source, files, _opened)
    facts = facts.adding(
        Checkpoint(
            source.reference, files, {**states, optimizer: state}, writer, optimizer, adapter_folder(files) or "",
            (shards and shards.world) or _world(files), shards=shards, **found,
        ),
        plan if plan.arguments else _with_arguments(plan, plain_fields(values.get(ARGUMENTS))),
        *((SchedulerState(plain_fields(values[scheduler]), scheduler),) if states.get(scheduler, _ABSENT).ok else ()),
        *((TrainerState(values[STATE]),) if states.get(STATE, _ABSENT).ok else ()),
    )  # fmt: skip
    for kind, name in ((SchedulerState, SCHEDULER), (TrainerState, STATE)):
        there = states.get(name, _ABSENT)
        facts = facts.lacking(Missing(f"there is no usable {name}", waived=there.state == "absent"), kind)
    return facts.lacking(kept, OptimizerState) if isinstance(kept, Missing) else facts.adding(kept)


_ABSENT = FileState("", "absent")


def _optimizer_facts(
    source: Source, name: str, writer: str, states: Mapping[str, FileState], value: Any
) -> tuple[FileState, OptimizerState | Missing]:
    """The state of the optimizer's file, and what it holds; nothing is left to judge where there is none."""
    state = states.get(name, FileState(name, "absent", f"there is no {name}"))
    if not state.ok:
        return state, Missing(f"there is no optimizer state to judge: {state.detail}", waived=True)
    try:
        found = read_state(value, name, partial(_number, source))
        if writer == "fsdp" and not all(isinstance(one, str) for one in found.order):
            return state, Missing("the optimizer's state is in a form that only FSDP puts together")
        return state, found
    except NoOptimizerState as other:
        told = f"holds {', '.join(other.found[:5])}" if other.found else "holds no dict"
        return FileState(name, "foreign", told, state.size), Missing(f"{name} is no optimizer's state", waived=True)


def _number(source: Source, info: TensorInfo) -> float | None:
    """The number in a tensor of one element, in a file that is on this disk."""
    form = _STEPS.get(info.dtype)
    if form is None or not info.start or source.path(info.file) is None:
        return None
    try:
        data = source.read(info.file, info.start, struct.calcsize(form))
        return float(struct.unpack(form, data)[0])
    except (Unreachable, struct.error):
        return None


def _with_arguments(plan: ResumePlan, arguments: Mapping[str, Any]) -> ResumePlan:
    told = {name: getattr(plan, name) for name in plan.told if name != "config"}
    optim = arguments.get("optim")
    return ResumePlan(
        told.get("optimizer") or (optim if isinstance(optim, str) else None), told.get("world"), told.get("batch"),
        arguments, plan.config, plan.told,
    )  # fmt: skip


def _world(files: Mapping[str, int]) -> int:
    ranks = [
        int(match[1]) for name in files if (match := re.fullmatch(r"(?:rng_state|random_states)_(\d+)\.p\w+", name))
    ]
    return max(ranks, default=0) + 1


def _random(name: str) -> bool:
    return re.fullmatch(r"rng_state(_\d+)?\.pth", name) is not None


# ------------------------------------------------------------------------------------------------ one file


def _opened(source: Source, name: str, known: re.Pattern[str] | None = None) -> tuple[FileState, Any]:
    """The state of a torch file, and what it holds as inert values. ``known`` are names that its writer puts there."""
    size = source.files().get(name)
    if size is None:
        return FileState(name, "absent", f"there is no {name}"), None
    path = source.path(name)
    placed = 0 if path is None else None if known else 1  # of a state in one file the steps alone are read from here
    try:
        with path.open("rb") if path is not None else io.BufferedReader(_Remote(source, name, size)) as file:
            listing = torch_pickle.read_listing(file, size, name, placed=placed)
    except torch_pickle.BadPickle as trouble:
        return FileState(name, trouble.state, str(trouble), size), None
    except (OSError, Unreachable) as trouble:
        return FileState(name, "unreadable", f"it cannot be read: {trouble}", size), None
    expected = known or (_NUMPY if _random(name) else None)
    unexpected = [one for one in listing.unexpected if expected is None or not expected.fullmatch(one)]
    if known and unexpected:  # it is unpickled in full: objects of the user's own are made, and functions called
        bad = {
            *dangerous(listing),
            *(one for one in listing.called if not (_CALLED.fullmatch(one) or _NUMPY.fullmatch(one))),
        }
        unexpected = [one for one in unexpected if one in bad]
    if unexpected and name != ARGUMENTS:  # nobody unpickles the arguments to resume
        told = f"it calls {', '.join(unexpected[:3])}, which "
        told += "its reader would run" if known else "`weights_only=True` refuses"
        return FileState(name, "unsafe", told, size), None
    return FileState(name, "ok", size=size), listing.value


def _state_file(source: Source, files: Mapping[str, int]) -> tuple[FileState, Any]:
    try:
        if files[STATE] > MAX_STATE:
            raise bounded_json.BadJson(f"is {files[STATE]:,} bytes, more than the {MAX_STATE:,} that are read")
        raw = bounded_json.parse_object(source.read(STATE), MAX_STATE)
    except bounded_json.BadJson as trouble:
        return FileState(STATE, "unreadable", f"it {trouble}", files[STATE]), None
    except Unreachable as trouble:
        return FileState(STATE, "unreadable", trouble.why, files[STATE]), None
    raw.pop("log_history", None)
    return FileState(STATE, "ok", size=files[STATE]), raw


def _weights(source: Source, files: Mapping[str, int]) -> FileState:
    """Whether the adapter's weights are there in full, by their first bytes and the file's length."""
    from adapter_doctor.formats import safetensors_header

    folder = adapter_folder(files) or ""
    name = next(one for one in (f"{folder}/{one}".lstrip("/") for one in _WEIGHTS) if one in files)
    if not name.endswith(".safetensors"):
        return _opened(source, name)[0]
    try:
        length = safetensors_header.header_length(source.read(name, 0, 64), files[name])
        safetensors_header.parse_header(source.read(name, 8, length), files[name], name)
    except safetensors_header.BadHeader as trouble:
        return FileState(name, trouble.state, str(trouble))
    return FileState(name, "ok")


class _Remote(io.RawIOBase):
    """A file of a source as a file that can be read here and there; each stretch is asked for when it is read."""

    def __init__(self, source: Source, name: str, size: int) -> None:
        self._read: Callable[[int, int], bytes] = lambda start, length: source.read(name, start, length)
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._read(self._at, min(len(buffer), self._size - self._at)) if self._at < self._size else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


# --------------------------------------------------------------------------------------- what only the child can tell


def read_training(facts: Facts, answer: Mapping[str, Any]) -> Facts:
    """``facts`` with what the loading child says about the training: what trains, and the values of the moments."""
    if "trainable" in answer:
        parameters = tuple(
            Trainable(name, tuple(shape), bool(decays), key, dtype, place)
            for name, shape, decays, key, dtype, place in answer["trainable"]
        )
        facts = facts.adding(TrainableParameters("measured", parameters, total=int(answer.get("total", 0))))
    values = answer.get("moments")
    if isinstance(values, Mapping):
        if "refusal" in values:
            why = Missing(f"torch.load(weights_only=True) refuses the optimizer's state: {values['refusal'][:300]}")
            return facts.lacking(why, OptimizerValues)
        misplaced = tuple((one, other) for one, other in values.get("misplaced", ()))
        facts = facts.adding(OptimizerValues(tuple(values.get("not_finite", ())), misplaced))
    return facts
