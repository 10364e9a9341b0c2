"""A folder on this disk as a source."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from adapter_doctor.errors import os_error_sentence
from adapter_doctor.sources import Unreachable

MAX_FILES = 20_000
MAX_INSIDE = 4_200
"""Files of a folder in the folder that are listed: those that an engine keeps there for 2048 processes are among them."""


class DiskSource:
    """Files below one folder, listed two levels deep. Only regular files are opened: a pipe would block."""

    def __init__(self, folder: Path, reference: str) -> None:
        self.folder = folder
        self.reference = reference
        self.revision: str | None = None
        self.complete = True
        self.renamed_to: str | None = None

    @cached_property
    def _listing(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        try:
            with os.scandir(self.folder) as entries:
                names = sorted(entry.name for entry in entries)
            for name in names[:MAX_FILES]:
                self._note(found, name)
        except ValueError:  # a name that no file system can have
            raise Unreachable("it does not exist") from None
        except OSError as error:
            reason = "denied" if isinstance(error, PermissionError) else "not-found"
            raise Unreachable(os_error_sentence(error), reason=reason) from None
        return found

    def _note(self, found: dict[str, int], name: str) -> None:
        try:
            status = (self.folder / name).stat()
        except OSError:  # a dangling or looping link: it is there by name, and reading it will say why not
            found[name] = 0
            return
        if stat.S_ISREG(status.st_mode):
            found[name] = status.st_size
        elif stat.S_ISDIR(status.st_mode) and not name.startswith("."):
            try:
                with os.scandir(self.folder / name) as entries:
                    inside = sorted(entry.name for entry in entries)[:MAX_INSIDE]
            except OSError:  # a folder that may not be listed holds nothing that could be examined
                return
            for inner in inside:
                with contextlib.suppress(OSError):  # a link that leads nowhere is no file
                    if stat.S_ISREG((status := (self.folder / name / inner).stat()).st_mode):
                        found[f"{name}/{inner}"] = status.st_size

    def files(self) -> Mapping[str, int]:
        """Names and sizes; see :class:`adapter_doctor.sources.Source`."""
        return self._listing

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file; see :class:`adapter_doctor.sources.Source`."""
        path = self.folder / name
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise Unreachable("it is not a regular file")
            with path.open("rb") as file:
                file.seek(start)
                return file.read() if length is None else file.read(length)
        except OSError as error:
            raise Unreachable(os_error_sentence(error)) from None
        except (ValueError, OverflowError):  # from a damaged file: it comes before the beginning, or beyond any end
            raise Unreachable(f"there are no bytes at {start:#x}") from None

    def prepare(self, *patterns: str) -> None:
        """Nothing: the files are here."""

    def fetch_all(self, names: Sequence[str]) -> Mapping[str, Path]:
        """Where the files are; see :class:`adapter_doctor.sources.Source`."""
        return {name: self.folder / name for name in names}

    def path(self, name: str) -> Path | None:
        """The file's path; see :class:`adapter_doctor.sources.Source`."""
        return self.folder / name
