"""Write the mended copy: beside its place under another name first, and in its place when all of it is there and proven."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapter_doctor.errors import DoctorError, os_error_sentence
from adapter_doctor.formats.safetensors_header import BITS
from adapter_doctor.repair.plan import Draft
from adapter_doctor.repair.recipes import Recipe, count, leaves
from adapter_doctor.repair.values import Reader
from adapter_doctor.sources import Source, Unreachable

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RECORD = "adapter_doctor"
"""The key in the safetensors metadata under which the steps are kept."""
MOST_BESIDE = 100_000_000
"""Bytes of a file that is copied along; more is no model card and no tokenizer."""
# Weights (written anew, or of another format) and the state of a training, which nobody needs to use the adapter.
_NOT_BESIDE = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".npz", ".index.json")


def checked_place(output: Path) -> Path:
    """Where the copy is to go, as an absolute path.

    Raises:
        DoctorError: something is there already, or no folder can be made there.
    """
    try:
        place = output.expanduser().absolute()
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise DoctorError(f"{output} is there already, and is no folder", "give a folder that does not exist yet")
        if place.is_dir() and any(place.iterdir()):
            raise DoctorError(f"{output} is there already, and is not empty", "give a folder that does not exist yet")
        if not place.parent.is_dir():
            raise DoctorError(f"the folder {place.parent} does not exist", f"mkdir -p {place.parent}")
    except OSError as error:
        raise DoctorError(f"{output} cannot be used: {os_error_sentence(error)}") from None
    except RuntimeError:  # expanduser's, of a user that is not known
        raise DoctorError(f"{output} begins with the home folder of nobody here", f"--output ./{output}") from None
    return place


@contextlib.contextmanager
def workplace(place: Path) -> Iterator[Path]:
    """A folder beside ``place`` to write in, which is gone afterwards, whatever happens.

    Raises:
        DoctorError: it cannot be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".part", dir=place.parent))
    except OSError as error:
        raise DoctorError(f"nothing can be written in {place.parent}: {os_error_sentence(error)}") from None
    try:
        inner = folder / place.name  # with the modes that any new folder gets; the outer one is for its owner alone
        inner.mkdir()
        yield inner
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put(folder: Path, place: Path) -> None:
    """Move the finished folder to its place, which is empty or not there.

    Raises:
        DoctorError: something else is there by now.
    """
    try:
        if place.is_dir():
            place.rmdir()
        folder.rename(place)
    except OSError as error:
        raise DoctorError(f"{place} could not be put in its place: {os_error_sentence(error)}") from None


def write(draft: Draft, source: Source, folder: Path) -> None:
    """The draft's files, and those that go with it, into ``folder``.

    Raises:
        DoctorError: the disk is full, or a file cannot be read.
        CannotMend: a tensor's format cannot be rearranged.
    """
    needed = sorted({info.file for recipe in draft.tensors.values() for info in leaves(recipe)})
    beside = files_beside(source)
    try:
        paths = source.fetch_all([*needed, *beside, *([CONFIG] if CONFIG in source.files() else [])])
        write_weights(draft, {name: paths[name] for name in needed}, folder / WEIGHTS)
        _write_config(draft, source, folder / CONFIG)
        for name in beside:
            if is_own(paths[name], source) and paths[name].is_file():  # a link may lead nowhere
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(paths[name], folder / name)
    except Unreachable as trouble:
        raise DoctorError(f"the adapter could not be read: {trouble.why}") from None
    except OSError as error:
        raise DoctorError(f"the copy could not be written: {os_error_sentence(error)}; nothing is left of it") from None
    except RuntimeError as error:  # what threading says where no thread can be started
        raise DoctorError(f"the copy could not be written: {error}; nothing is left of it") from None


def files_beside(source: Source) -> list[str]:
    """The files that go with an adapter: model card, tokenizer, chat templates; no weights, no state of a training."""
    nested = {
        name.rpartition("/")[0] for name in source.files() if name.endswith((f"/{CONFIG}", "/trainer_state.json"))
    }
    return [
        name for name, size in source.files().items()
        if size <= MOST_BESIDE and name != CONFIG and not name.endswith(_NOT_BESIDE) and ".." not in name.split("/")
        and name.rpartition("/")[0] not in nested and not name.startswith(("global_step", "checkpoint-", ".", "latest"))
    ]  # fmt: skip


def is_own(path: Path, source: Source) -> bool:
    """Whether a file lies in the adapter's own folder, or in the cache of its repository: a link may lead anywhere."""
    root = source.path("")
    if root is None:
        return True  # fetched by name, into the Hub's own cache
    root = Path(os.path.realpath(root))
    snapshot = next((one for one in (root, *root.parents) if one.parent.name == "snapshots"), None)
    allowed = snapshot.parent.parent if snapshot is not None else root
    return Path(os.path.realpath(path)).is_relative_to(allowed)


def write_weights(draft: Draft, paths: Mapping[str, Path], path: Path) -> None:
    """The draft's tensors as one safetensors file; ``paths`` are the files of the original by their names.

    Raises:
        OSError: reading or writing fails.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **draft.metadata, RECORD: record(draft)}}
    at = 0
    for name, recipe in draft.tensors.items():
        size = _size(recipe)
        header[name] = {"dtype": recipe.dtype, "shape": list(recipe.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    text += b" " * (-len(text) % 8)  # the values begin at a multiple of 8, as safetensors asks of writers
    with Reader(paths) as reader, path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        reader.copy(list(draft.tensors.values()), out)


def _size(recipe: Recipe) -> int:
    return (count(recipe) * BITS[recipe.dtype] + 7) // 8


def record(draft: Draft) -> str:
    """What was done, as kept in the metadata of the copy."""
    from adapter_doctor import __version__

    steps = [{"mends": step.code, "what": step.what, **({"loses": step.loss} if step.loss else {})} for step in draft.steps]  # fmt: skip
    return json.dumps({"version": __version__, "steps": steps}, ensure_ascii=False)


def _write_config(draft: Draft, source: Source, path: Path) -> None:
    """The config as PEFT writes one; where nothing in it changed, byte by byte as it was."""
    if CONFIG in source.files() and not any(step.settings or step.unset for step in draft.steps):
        path.write_bytes(source.read(CONFIG))
    else:
        path.write_text(json.dumps(draft.config, indent=2, sort_keys=True), encoding="utf-8")
