"""Where files come from: a source lists them, reads small ones whole, and reads byte ranges of large ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol


class Unreachable(Exception):
    """A file or folder could not be read. ``state`` is as in :class:`adapter_doctor.facts.FileState`.

    ``temporary`` is set where trying again may help, so that it is no defect of the adapter. ``reason`` is
    ``not-found``, ``denied``, ``gated``, ``revision``, ``file``, ``disk``, ``network`` or ``offline``.
    """

    def __init__(
        self, why: str, *, state: str = "unreadable", temporary: bool = False, reason: str = "not-found"
    ) -> None:
        super().__init__(why)
        self.why = why
        self.state = state
        self.reason = reason
        self.temporary = temporary


class Source(Protocol):
    """One folder of files, on disk or on the Hub."""

    reference: str
    revision: str | None
    complete: bool
    """Whether a file that is not listed is not there; a cache may hold only part of a repository."""
    renamed_to: str | None
    """The repository's present name where it has moved."""

    def prepare(self, *patterns: str) -> None:
        """Get ready, side by side, what reads of the files of these names will need; troubles show when they are read."""

    def fetch_all(self, names: Sequence[str]) -> Mapping[str, Path]:
        """Have these files on this disk, and say where.

        Raises:
            Unreachable: one of them cannot be had.
        """

    def files(self) -> Mapping[str, int]:
        """Names (relative, ``/`` between levels) and sizes in bytes.

        Raises:
            Unreachable: the folder is not there or may not be listed.
        """

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file, from ``start``, ``length`` of them or to the end.

        Raises:
            Unreachable: the file is not there or cannot be read.
        """

    def path(self, name: str) -> Path | None:
        """Where the file lies on this disk, or None where it would have to be fetched."""
