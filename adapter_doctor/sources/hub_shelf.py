"""Keep what was learnt about a repository on the Hub, so that it is asked for once."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

COMMIT = re.compile(r"[0-9a-f]{40}")
MAX_FILES = 20_000

_BLOB = re.compile(r"[0-9a-f]{40,64}")


class Entry(NamedTuple):
    """A file as the Hub lists it: its size in bytes, and the hash of its contents (empty where it is not known)."""

    size: int
    blob: str


class Shelf:
    """What earlier examinations learnt about one repository, kept in ``folder`` (None keeps nothing).

    Listings belong to a commit and beginnings of files to a hash of their contents, so nothing here goes stale; only
    the commit of a branch does, and it is used offline alone. A folder that cannot be written keeps nothing.
    """

    def __init__(self, repo: str, folder: Path | None) -> None:
        self.repo = repo
        self._folder = folder

    def name(self) -> str | None:
        """The repository's present name, where it was found to have moved."""
        text = self._get("name").decode("utf-8", "replace")
        return text if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", text) else None

    def put_name(self, name: str) -> None:
        """Keep the name that the repository has moved to."""
        self._put("name", name.encode())

    def commit(self, revision: str) -> str | None:
        """The commit that a branch or tag had when it was last asked for."""
        text = self._get(f"ref-{quote(revision, safe='')}").decode("ascii", "replace")
        return text if COMMIT.fullmatch(text) else None

    def commit_offline(self, revision: str, folders: Sequence[Path]) -> str | None:
        """The commit that a revision stands at, by the repository's folders in huggingface_hub's cache, else by this."""
        in_cache = (_text(folder / "refs" / revision) for folder in folders)
        commit = next((one for one in in_cache if one), None) or self.commit(revision)
        if commit is None and re.fullmatch(r"[0-9a-f]{7,40}", revision):
            return next((one.name for folder in folders for one in folder.glob(f"snapshots/{revision}*")), revision)
        return commit

    def listing(self, commit: str) -> Mapping[str, Entry]:
        """The files of a commit; empty where it was never listed."""
        try:
            raw = json.loads(self._get(f"listing-{commit}"))
            return {str(name): Entry(int(size), str(blob)) for name, (size, blob) in raw.items()}
        except (ValueError, TypeError, AttributeError):
            return {}

    def put_listing(self, revision: str, commit: str, listing: Mapping[str, Entry]) -> None:
        """Keep the files of a commit, and that a branch or tag stands there."""
        if not self.listing(commit):
            self._put(f"listing-{commit}", json.dumps(listing).encode())
        if self.commit(revision) != commit and not COMMIT.fullmatch(revision):
            self._put(f"ref-{quote(revision, safe='')}", commit.encode())

    def head(self, blob: str) -> bytes:
        """The beginning of a file by the hash of its contents, as far as it was read."""
        return self._get(f"head-{blob}") if _BLOB.fullmatch(blob) else b""

    def put_head(self, blob: str, head: bytes) -> None:
        """Keep the beginning of a file."""
        if _BLOB.fullmatch(blob):
            self._put(f"head-{blob}", head)

    def _get(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes() if self._folder is not None else b""
        except OSError:
            return b""

    def _put(self, name: str, content: bytes) -> None:
        if self._folder is None:
            return
        draft = self._folder / f"{name}.{os.getpid()}-{threading.get_ident()}"
        try:
            draft.write_bytes(content)
            draft.replace(self._folder / name)
        except OSError:
            draft.unlink(missing_ok=True)


def sizes_below(prefix: str, listing: Mapping[str, Entry]) -> Mapping[str, int]:
    """Sizes of the files whose names begin with ``prefix``, by the rest of their names, two levels deep."""
    found = {
        name.removeprefix(prefix): entry.size
        for name, entry in listing.items()
        if name.startswith(prefix) and name.count("/", len(prefix)) < 2
    }
    return dict(sorted(found.items())[:MAX_FILES])


def files_in_cache(folders: Sequence[Path], commit: str) -> Mapping[str, Entry]:
    """The files of a commit that lie in a repository's folders in huggingface_hub's cache."""
    return {
        one.relative_to(snapshot).as_posix(): Entry(one.stat().st_size, "")
        for snapshot in (folder / "snapshots" / commit for folder in folders)
        for one in snapshot.rglob("*")
        if one.is_file()
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_text("ascii").strip() or None
    except (OSError, ValueError):
        return None
