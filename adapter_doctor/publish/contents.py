"""Which files of a folder an upload sends, and which it leaves here."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from adapter_doctor.errors import DoctorError, os_error_sentence
from adapter_doctor.facts import UploadContents

MAX_FILES = 10_000

# What trainers (transformers' Trainer, TRL, Lightning, DeepSpeed, FSDP) and tools leave in an output folder, by name; a
# pattern that ends in a slash is a folder anywhere in the path.
_STRAYS = (
    ("optimizer.*", "the optimizer's state"),
    ("optimizer/", "the optimizer's state"),
    ("scheduler.pt", "the scheduler's state"),
    ("scaler.pt", "the gradient scaler's state"),
    ("rng_state*.pth", "states of random generators"),
    ("training_args.bin", "a pickle of the training arguments"),
    ("trainer_state.json", "the trainer's log"),
    ("checkpoint-*/", "a checkpoint of the training"),
    ("global_step*/", "DeepSpeed's state"),
    ("zero_to_fp32.py", "DeepSpeed's state"),
    ("latest", "DeepSpeed's state"),
    ("pytorch_model_fsdp*", "FSDP's state"),
    ("*.ckpt", "a checkpoint of the training"),
    ("runs/", "logs"),
    ("logs/", "logs"),
    ("wandb/", "logs"),
    ("lightning_logs/", "logs"),
    ("events.out.tfevents.*", "logs"),
    ("*.log", "logs"),
    ("__pycache__/", "a cache"),
    (".ipynb_checkpoints/", "a cache"),
    (".DS_Store", "a cache"),
    (".env*", "settings of this machine"),
)
_NEVER = (".git", ".cache")
# A whole model beside the adapter: sent, as far as the name tells on purpose, but worth a word.
_WHOLE = ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin", "*.gguf")


def contents(folder: Path, include: Iterable[str] = ()) -> UploadContents:
    """The files below ``folder``; a stray one is sent only if a pattern of ``include`` fits its name.

    Raises:
        DoctorError: the folder cannot be listed, or holds more files than an adapter has.
    """
    include = tuple(include)
    files: dict[str, int] = {}
    included: dict[str, str] = {}
    left_out: dict[str, str] = {}

    def refuse(error: OSError) -> None:
        raise DoctorError(f"{folder} cannot be listed: {os_error_sentence(error)}")

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(one for one in folders if one not in _NEVER)
        for name in sorted(names):
            path = Path(place, name)
            if not path.is_file():
                continue
            if len(files) + len(left_out) >= MAX_FILES:
                raise DoctorError(f"{folder} holds more than {MAX_FILES:,} files", "upload the adapter's own folder")
            inside = path.relative_to(folder).as_posix()
            what = _stray(inside)
            if what and not any(fnmatchcase(inside, pattern) for pattern in include):
                left_out[inside] = what
                continue
            files[inside] = path.stat().st_size
            if what or (what := _whole_model(inside)):
                included[inside] = what
    return UploadContents(files, included, left_out)


def _stray(inside: str) -> str:
    *folders, name = inside.split("/")
    for pattern, what in _STRAYS:
        if pattern.endswith("/"):
            if any(fnmatchcase(one, pattern[:-1]) for one in folders):
                return what
        elif fnmatchcase(name, pattern):
            return what
    return ""


def _whole_model(inside: str) -> str:
    return "weights of a whole model" if any(fnmatchcase(inside, one) for one in _WHOLE) else ""
