"""A repository on the Hugging Face Hub as a source, read through huggingface_hub and its cache.

It is written for huggingface_hub 0.25 (on requests), 1.x (on httpx) and 2.x (on httpx2). Errors are therefore told
apart by status, headers and names, never by the classes of an HTTP library.
"""

from __future__ import annotations

import errno
import inspect
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

from adapter_doctor.errors import os_error_sentence
from adapter_doctor.reference import Reference
from adapter_doctor.sources import Unreachable

PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between attempts at something that may pass by itself, at least."""
LONGEST_WAIT = 60.0
"""Seconds that a server may ask to be left alone where there is no time limit."""
SILENCE = 10.0
"""Seconds without a byte after which a connection counts as dead."""
HEAD = 98_304
"""Bytes asked for at the start of a large file, so that its header comes with the first answer."""
SHARD_HEADS = 131_072
"""The same for all shards of a checkpoint together, but at least ``LEAST_HEAD`` for each."""
LEAST_HEAD = 8_192
PARALLEL = 8
MAX_FILES = 20_000

_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOB = re.compile(r"[0-9a-f]{40,64}")
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.safetensors$")
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_POINTER = b"version https://git-lfs"

Answer = TypeVar("Answer")


class Passing(Unreachable):
    """Something that may pass by itself. ``wait`` is how many seconds the server asks to be left alone."""

    def __init__(self, why: str, *, wait: float = 0.0, state: str = "unreadable") -> None:
        super().__init__(why, state=state, temporary=True, reason="network")
        self.wait = wait


class Entry(NamedTuple):
    """A file as the Hub lists it: its size in bytes, and the hash of its contents (empty where it is not known)."""

    size: int
    blob: str


class HubSource:
    """Files of a repository at one commit, below one folder, listed two levels deep.

    ``reference`` names a repository. ``token`` is the user's, None for the one that `hf auth login` saved. ``offline``
    (or HF_HUB_OFFLINE) answers from the cache alone. ``deadline`` is the value of ``time.monotonic()`` at which to give
    up. ``progress`` is told of downloads; where it is given, huggingface_hub shows its bar on stderr too.

    After ``files()``: ``revision`` is the full commit, ``renamed_to`` the repository's present name where it has moved,
    and ``complete`` is False where the listing is only what lies in the cache, so that an absent file proves nothing.
    """

    def __init__(
        self,
        reference: Reference,
        *,
        token: str | None = None,
        offline: bool = False,
        deadline: float | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        from huggingface_hub import constants

        assert reference.repo is not None
        self.reference = str(reference)
        self.revision: str | None = None
        self.renamed_to: str | None = None
        self.complete = True
        self._repo = reference.repo
        self._asked = reference.revision
        self._prefix = f"{reference.subfolder}/" if reference.subfolder else ""
        self._token = token
        self._offline = offline or bool(constants.HF_HUB_OFFLINE)
        self._deadline = deadline
        self._progress = progress
        self._shelf = Shelf(reference.repo)
        self._lock = threading.Lock()
        self._entries: Mapping[str, Entry] | None = None
        self._unlisted: Unreachable | None = None
        self._failed: dict[str, Unreachable] = {}
        self._heads: dict[str, bytes] = {}
        self._located: dict[str, str] = {}

    # ------------------------------------------------------------------------------------------- the listing

    def files(self) -> Mapping[str, int]:
        """Names and sizes; see :class:`adapter_doctor.sources.Source`. One request, the first time."""
        with self._lock:
            if self._unlisted is not None:
                raise self._unlisted.with_traceback(None)
            if self._entries is None:
                try:
                    self._entries = self._list_cached() if self._offline else self._list()
                except Unreachable as trouble:
                    self._unlisted = trouble
                    raise
        return self._below

    @cached_property
    def _below(self) -> Mapping[str, int]:
        found = {
            name.removeprefix(self._prefix): entry.size
            for name, entry in (self._entries or {}).items()
            if name.startswith(self._prefix) and name.count("/", len(self._prefix)) < 2
        }
        return dict(sorted(found.items())[:MAX_FILES])

    def _list(self) -> Mapping[str, Entry]:
        from huggingface_hub import HfApi

        asked = self._asked or "main"
        if _COMMIT.fullmatch(asked) and (kept := self._shelf.listing(asked)):
            self.revision = asked  # a commit does not change, so there is nothing to ask
            return self._checked(kept)
        api: Any = HfApi(token=self._token, library_name="adapter-doctor")
        info = self._ask(
            "", lambda: api.model_info(self._repo, revision=self._asked, files_metadata=True, timeout=self._silence())
        )
        if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
            raise _no_hub(self._endpoint)
        self.revision = info.sha
        if isinstance(info.id, str) and info.id != self._repo:
            self.renamed_to, self._repo = info.id, info.id
            self._shelf.put_name(info.id)
        found = {one.rfilename: _entry(one) for one in info.siblings or ()}
        if any(entry is None for entry in found.values()):  # a mirror that knows no sizes here
            tree = self._ask("", lambda: list(api.list_repo_tree(self._repo, recursive=True, revision=self.revision)))
            found = {one.path: _entry(one) for one in tree if hasattr(one, "size")}
        listing = {name: entry for name, entry in found.items() if entry is not None}
        self._shelf.put_listing(asked, info.sha, listing)
        return self._checked(listing)

    def _list_cached(self) -> Mapping[str, Entry]:
        """The listing without the Hub: of an earlier examination, of `hf download`, or whatever lies in the cache."""
        asked = self._asked or "main"
        if name := self._shelf.name():
            self.renamed_to, self._repo = name, name
        folders = [_cache_folder(repo) for repo in dict.fromkeys((self._repo, self._shelf.repo))]
        commits = (_text(folder / "refs" / asked) for folder in folders)
        commit = next((one for one in commits if one), None) or self._shelf.commit(asked)
        if commit is None and re.fullmatch(r"[0-9a-f]{7,40}", asked):
            commit = next((one.name for folder in folders for one in folder.glob(f"snapshots/{asked}*")), asked)
        if commit is not None:
            self.revision = commit
            if listing := self._shelf.listing(commit) or _tree_in_cache(self._repo, commit):
                return self._checked(listing)
            found = {
                one.relative_to(snapshot).as_posix(): Entry(one.stat().st_size, "")
                for snapshot in (folder / "snapshots" / commit for folder in folders)
                for one in snapshot.rglob("*")
                if one.is_file()
            }
            if found:
                self.complete = False
                return self._checked(found)
        at = f" at the revision {self._asked}" if self._asked else ""
        raise Unreachable(
            f"the cache has no copy of {self._repo}{at}, and offline mode is on: run once without --offline "
            f"(and without HF_HUB_OFFLINE), or `hf download {self._repo}`",
            temporary=True,
            reason="offline",
        )

    def _checked(self, listing: Mapping[str, Entry]) -> Mapping[str, Entry]:
        if self._prefix and not any(name.startswith(self._prefix) for name in listing):
            folders = sorted({name.rpartition("/")[0] for name in listing if "/" in name})[:5]
            there = f"; there are {', '.join(folders)}" if folders else ""
            raise Unreachable(f"{self._repo} has no folder {self._prefix[:-1]!r}{there}", state="absent")
        return listing

    # ---------------------------------------------------------------------------------------------- the files

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file; see :class:`adapter_doctor.sources.Source`.

        A file that is asked for whole comes through the cache, part of one by byte range.
        """
        size = self._entry(name).size
        stop = size if length is None else min(size, start + length)
        if start >= stop:
            return b""
        whole = start == 0 and max(stop, self._head_of(name)) >= size
        local = self.fetch(name) if whole else self._local(name)
        if local is None:
            return self._read_range(name, start, stop)
        try:
            with local.open("rb") as file:
                file.seek(start)
                return file.read(stop - start)
        except OSError as error:
            raise Unreachable(os_error_sentence(error)) from None

    def read_many(self, requests: Sequence[tuple[str, int, int | None]]) -> list[bytes | Unreachable]:
        """Several reads at once, each given as (name, start, length); what failed stands in its place."""

        def one(request: tuple[str, int, int | None]) -> bytes | Unreachable:
            try:
                return self.read(*request)
            except Unreachable as trouble:
                return trouble

        self._try_to_list()
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(one, requests))

    def prepare(self, *patterns: str) -> None:
        """Get at once what will be read next: files whose names fit a pattern, large ones by their beginning.

        Nothing is raised: what failed is remembered, and raised by the read that needs it.
        """
        if not self._try_to_list():
            return
        names = [name for name in self.files() if any(fnmatchcase(name, pattern) for pattern in patterns)]
        self.read_many([(name, 0, None if name.endswith(".json") else self._head_of(name)) for name in names])

    def path(self, name: str) -> Path | None:
        """Where the file lies in the cache, or None where it would have to be fetched; ``""`` is the folder itself."""
        if not self._try_to_list():
            return None
        if not name:
            folder = _cache_folder(self._repo) / "snapshots" / str(self.revision) / self._prefix
            return folder if folder.is_dir() else None
        try:
            return self._local(name)
        except Unreachable:
            return None

    def fetch(self, name: str) -> Path:
        """Where the file lies in the cache, into which it is downloaded if need be.

        Raises:
            Unreachable: it is not there, may not be read, or does not arrive.
        """
        from huggingface_hub import hf_hub_download

        if (local := self._local(name)) is not None:
            return local
        self._must_be_online(name)
        size = self._entry(name).size
        # Inside, timeouts are retried for minutes; a connection of 50 kB/s is slow enough for anyone.
        limit = 60.0 + size / 50_000
        options: dict[str, Any] = {}
        if self._progress is not None and size > 1_000_000:
            self._progress(f"downloading {name} of {self._repo}, {size / 1e6:,.0f} MB")
        elif "tqdm_class" in inspect.signature(hf_hub_download).parameters:
            options["tqdm_class"] = _silent_bar()
        place = self._ask(
            name,
            lambda: hf_hub_download(
                self._repo, self._prefix + name, revision=self.revision, token=self._token,
                etag_timeout=self._silence(), library_name="adapter-doctor", **options,
            ),
            limit,
        )  # fmt: skip
        return self._sound(name, Path(place))

    def fetch_all(self, names: Sequence[str]) -> dict[str, Path]:
        """Several fetches at once.

        Raises:
            Unreachable: as the first of ``names`` that failed.
        """
        self._try_to_list()
        with ThreadPoolExecutor(PARALLEL) as pool:
            return dict(zip(names, pool.map(self.fetch, names), strict=True))

    def _try_to_list(self) -> bool:
        try:
            self.files()
        except Unreachable:
            return False
        return True

    def _entry(self, name: str) -> Entry:
        self.files()
        if name in self._failed:
            raise self._failed[name].with_traceback(None)
        entry = (self._entries or {}).get(self._prefix + name)
        if entry is None and not self.complete:
            raise _not_cached(name)
        if entry is None:
            raise Unreachable(f"there is no {name} in {self._repo}", state="absent", reason="file")
        return entry

    def _local(self, name: str) -> Path | None:
        """The file in the cache, under the repository's present name or the one that was asked for."""
        from huggingface_hub import try_to_load_from_cache

        self._entry(name)
        for repo in dict.fromkeys((self._repo, self._shelf.repo)):
            found = try_to_load_from_cache(repo, self._prefix + name, revision=self.revision)
            if isinstance(found, str):
                return self._sound(name, Path(found))
        return None

    def _sound(self, name: str, local: Path) -> Path:
        """The path, where the file in the cache has the length that the Hub lists."""
        size, listed = local.stat().st_size, self._entry(name).size
        if size != listed:
            with local.open("rb") as file:
                _check_content(name, file.read(1024), "", listed, whole=True)
            why = f"the copy in the cache has {size:,} bytes, and the Hub lists {listed:,}: delete {local}"
            raise Unreachable(why, state="truncated", temporary=True, reason="disk")
        return local

    # ---------------------------------------------------------------------------------------- parts of files

    def _head_of(self, name: str) -> int:
        """Bytes to ask for at the start of a file: a checkpoint of many shards has short headers."""
        shard = _SHARD.search(name)
        return max(LEAST_HEAD, SHARD_HEADS // max(1, int(shard[1]))) if shard else HEAD

    def _read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes of a file that is not in the cache. Its beginning, once read, is kept and grows."""
        size, blob = self._entry(name)
        head = self._heads.get(name) or self._shelf.head(blob)
        if start > len(head):
            self._must_be_online(name)
            return self._ask(name, lambda: self._download(name, start, stop, size))
        if stop > len(head):
            self._must_be_online(name)
            begin, end = len(head), min(size, max(stop, self._head_of(name)))
            head += self._ask(name, lambda: self._download(name, begin, end, size))
            self._shelf.put_head(blob, head)
        self._heads[name] = head
        return head[start:stop]

    def _must_be_online(self, name: str) -> None:
        if self._offline:
            raise _not_cached(name)

    def _download(self, name: str, start: int, stop: int, size: int) -> bytes:
        """Bytes ``start`` to ``stop`` by one request; a server that ignores the range is read up to ``stop``."""
        from huggingface_hub import hf_hub_url

        own = hf_hub_url(self._repo, self._prefix + name, revision=self.revision)
        url = self._located.get(name, own)
        headers = dict(_utils().build_hf_headers(token=self._token, library_name="adapter-doctor"))
        if urlsplit(url).netloc != urlsplit(own).netloc:
            headers.pop("authorization", None)
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        with _opened(url, headers, self._silence()) as (response, pieces):
            if response.status_code >= 400 and self._located.pop(name, None):
                raise Passing("the address at the storage server has expired")
            if response.status_code >= 400 and urlsplit(str(response.url)).netloc != urlsplit(own).netloc:
                raise Passing(f"the Hub's storage server answers {response.status_code}: is a firewall in between?")
            _utils().hf_raise_for_status(response)
            partial = response.status_code == 206
            total = response.headers.get("content-range" if partial else "content-length", "").rpartition("/")[2]
            skip = 0 if partial else start
            received = self._receive(pieces, skip + stop - start)
            kind = response.headers.get("content-type", "")
            _check_content(name, received, kind, skip + stop - start, whole=skip == start)
            if total.isdigit() and int(total) != size and "content-encoding" not in response.headers:
                raise Passing(f"the Hub lists {size:,} bytes and serves {int(total):,}", state="truncated")
            if len(received) < skip + stop - start:
                raise Passing(f"the connection ended after {len(received):,} of {skip + stop - start:,} bytes")
            if str(response.url) != url:
                self._located[name] = str(response.url)
        return received[skip : skip + stop - start]

    def _receive(self, pieces: Iterator[bytes], enough: int) -> bytes:
        received = bytearray()
        for piece in pieces:
            received += piece
            if len(received) >= enough or self._remaining() <= 0:
                break
        return bytes(received)

    # -------------------------------------------------------------------------------------------- patience

    @property
    def _endpoint(self) -> str:
        from huggingface_hub import constants

        return str(constants.ENDPOINT)

    def _remaining(self) -> float:
        return float("inf") if self._deadline is None else self._deadline - time.monotonic()

    def _silence(self) -> float:
        return max(0.1, min(SILENCE, self._remaining()))

    def _ask(self, name: str, call: Callable[[], Answer], limit: float = float("inf")) -> Answer:
        """The answer of ``call``, tried again while what hinders it may pass and there is time.

        ``name`` is the file in question, empty for the listing; ``limit`` is in seconds, for one attempt.

        Raises:
            Unreachable: it does not work; nothing of the original error, which may hold a token, is attached.
        """
        for pause in (*PAUSES, None):
            try:
                return self._in_time(call, min(limit, self._remaining()))
            # The libraries below raise what they like, also for answers that are no Hub's: none of it is our bug or
            # the adapter's defect, and all of it must end as a sentence.
            except Exception as error:
                trouble = explain(error, self._repo, self._asked, name, self._endpoint, self._token)
            if pause is None or not isinstance(trouble, Passing):
                break
            pause = max(pause, trouble.wait)
            if pause > min(LONGEST_WAIT, self._remaining()):
                break
            time.sleep(pause)
        if name:
            self._failed[name] = trouble
        raise trouble

    def _in_time(self, call: Callable[[], Answer], limit: float) -> Answer:
        """The answer of ``call``, which is left behind in its thread after ``limit`` seconds.

        Look-ups of names, locks on the cache and the retries of huggingface_hub know no limit of ours.
        """
        if limit <= 0:
            raise Unreachable("the time limit was used up before", temporary=True, reason="network")
        answer: Future[Answer] = Future()

        def run() -> None:
            _impatient.on = True
            try:
                _quiet_the_client()
                answer.set_result(call())
            except BaseException as error:  # handed to the thread that waits
                answer.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        wait_for((answer,), None if limit == float("inf") else limit)
        if not answer.done():
            host = urlsplit(self._endpoint).netloc
            raise Unreachable(f"{host} did not answer within the time limit", temporary=True, reason="network")
        return answer.result()


# ------------------------------------------------------------------------------------------- what is kept on disk


class Shelf:
    """What earlier examinations learnt about one repository, kept in huggingface_hub's cache for assets.

    Listings belong to a commit and beginnings of files to a hash of their contents, so nothing here goes stale; only
    the commit of a branch does, and it is used offline alone. A cache that cannot be written keeps nothing.
    """

    def __init__(self, repo: str) -> None:
        self.repo = repo

    @cached_property
    def _folder(self) -> Path | None:
        from huggingface_hub import cached_assets_path, constants

        try:
            return cached_assets_path(
                "adapter-doctor",
                namespace="models",
                subfolder=self.repo.replace("/", "--"),
                assets_dir=constants.HF_ASSETS_CACHE,
            )
        except (OSError, ValueError):  # the latter for a file that lies in its place
            return None

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
        return text if _COMMIT.fullmatch(text) else None

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
        if self.commit(revision) != commit and not _COMMIT.fullmatch(revision):
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


def _cache_folder(repo: str) -> Path:
    """The repository's folder in the cache, whose layout huggingface_hub documents."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def _text(path: Path) -> str | None:
    try:
        return path.read_text("ascii").strip() or None
    except (OSError, ValueError):
        return None


def _tree_in_cache(repo: str, commit: str) -> Mapping[str, Entry]:
    """The listing that `hf download` left in the cache, from huggingface_hub 2.0; empty where there is none."""
    import huggingface_hub
    from huggingface_hub import errors

    cached_tree = getattr(huggingface_hub, "get_cached_repo_tree", None)
    try:
        found = cached_tree(repo, revision=commit) if cached_tree is not None else ()
    except getattr(errors, "CachedRepoTreeNotFoundError", ()):
        return {}
    return {one.path: entry for one in found if (entry := _entry(one)) is not None}


def _utils() -> Any:
    """huggingface_hub's utilities, which it exports in a way that type checkers do not see."""
    import huggingface_hub.utils

    return huggingface_hub.utils


def _entry(one: Any) -> Entry | None:
    """A file of huggingface_hub's listings; None where the size is not known."""
    lfs = one.lfs or {}
    return Entry(one.size, str(lfs.get("sha256") or one.blob_id or "")) if isinstance(one.size, int) else None


# ------------------------------------------------------------------------------------------------ the connection

_impatient = threading.local()


class _Refused(Exception):
    """An answer that huggingface_hub would sit out, heedless of our time limit."""

    def __init__(self, response: Any) -> None:
        super().__init__(f"the server answers {response.status_code}")
        self.response = response


def _quiet_the_client() -> None:
    """Let answers such as 429 and 503 reach us at once, and nothing be logged on the way; in our own threads only.

    huggingface_hub from 1.0 retries them inside ``hf_hub_download``, for as long as Retry-After says, and logs the
    addresses, which may be signed.
    """
    hooks = getattr(_utils().get_session(), "event_hooks", None)  # httpx; with requests nothing is retried
    if hooks is not None and _refuse not in hooks["response"]:
        _utils().get_session().event_hooks = {**hooks, "response": [*hooks["response"], _refuse]}
    for name in ("huggingface_hub.file_download", "huggingface_hub.utils._http"):
        logging.getLogger(name).addFilter(_is_not_ours)


def _is_not_ours(_: logging.LogRecord) -> bool:
    return not getattr(_impatient, "on", False)


def _refuse(response: Any) -> None:
    if getattr(_impatient, "on", False) and response.status_code in _AGAIN:
        raise _Refused(response)


@contextmanager
def _opened(url: str, headers: dict[str, str], timeout: float) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """An answer whose body is still to come, and the pieces of that body."""
    session = _utils().get_session()
    if callable(getattr(session, "stream", None)):  # httpx
        with session.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            yield response, response.iter_bytes()
    else:  # requests
        with session.get(url, headers=headers, timeout=timeout, stream=True) as response:
            yield response, response.iter_content(16_384)


def _silent_bar() -> Any:
    tqdm: Any = _utils().tqdm

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

    return Silent


def _check_content(name: str, content: bytes, kind: str, expected: int, *, whole: bool) -> None:
    """Whether content is of the file that was asked for; ``kind`` is its media type.

    ``whole`` says that it starts at the file's first byte, ``expected`` is how many bytes should have come.

    Raises:
        Unreachable: it is a web page or a Git LFS pointer.
    """
    page = content[:200].lstrip().lower().startswith((b"<!doctype html", b"<html"))
    if (page or "text/html" in kind.lower()) and not name.endswith((".html", ".htm")):
        why = "a web page came in its place, as from a proxy or a log-in page: check HTTPS_PROXY and HF_ENDPOINT"
        raise Unreachable(why, state="html", temporary=True, reason="network")
    if whole and content.startswith(_POINTER) and len(content) < expected:
        why = "the Hub serves a Git LFS pointer in its place: the upload was not finished, upload the file again"
        raise Unreachable(why, state="pointer", reason="file")


def _not_cached(name: str) -> Unreachable:
    return Unreachable(f"the cache has no copy of {name}, and offline mode is on", temporary=True, reason="offline")


# -------------------------------------------------------------------------------- from errors to sentences


def explain(
    error: BaseException, repo: str, revision: str | None, name: str, endpoint: str, token: str | None
) -> Unreachable:
    """What an error of huggingface_hub, an HTTP library or the operating system means, and what to do.

    ``name`` is the file that was asked for, empty for the repository's listing. The sentence holds no token.
    """
    chain = list(_chain(error))
    for one in chain:
        if isinstance(one, Unreachable):
            return one
        if (response := getattr(one, "response", None)) is not None:
            said = str(getattr(one, "server_message", "") or response.headers.get("X-Error-Message") or "")
            if "text/html" in response.headers.get("Content-Type", "") and response.status_code not in _AGAIN:
                return _no_hub(endpoint, f" (a web page with status {response.status_code})")
            return _explain_answer(response, _clean(said, token), repo, revision, name, _logged_in(token))
    names = {kind.__name__ for one in chain for kind in type(one).__mro__}
    text = " ".join(str(one) for one in chain)
    host = urlsplit(endpoint).netloc or endpoint
    if "OfflineModeIsEnabled" in names:
        return Unreachable("offline mode is on (HF_HUB_OFFLINE)", temporary=True, reason="offline")
    if any(isinstance(one, socket.gaierror) for one in chain) or _UNRESOLVED.search(text):
        why = f"the name {host} cannot be resolved: check the connection and HF_ENDPOINT, or use --offline"
        return Passing(why)
    if names & {"SSLError", "SSLCertVerificationError"} or "CERTIFICATE_VERIFY_FAILED" in text:
        why = f"the certificate of {host} cannot be verified: behind a proxy, set SSL_CERT_FILE to its certificates"
        return Unreachable(why, temporary=True, reason="network")
    if "ProxyError" in names:
        return Passing("the proxy cannot be reached: check HTTPS_PROXY")
    if names & {"TimeoutException", "Timeout", "TimeoutError"}:
        return Passing(f"{host} does not answer in time")
    if names & {"UnsupportedProtocol", "InvalidURL", "MissingSchema", "InvalidSchema", "LocationParseError"}:
        return Unreachable("HF_ENDPOINT is not a web address", temporary=True, reason="network")
    if names & {"HFValidationError"}:
        return Unreachable(f"{repo!r} cannot be the name of a repository: a Hub id looks like owner/name")
    if names & {"LocalTokenNotFoundError"}:
        return Unreachable("no token is saved: run `hf auth login`", reason="denied")
    if names & {"JSONDecodeError", "FileMetadataError"}:
        return _no_hub(endpoint)
    if names & {"TransportError", "ConnectionError", "ChunkedEncodingError", "ProtocolError", "RequestException"}:
        return Passing(f"the connection to {host} fails or is cut: check the connection, or use --offline")
    if "Consistency check failed" in text:
        return Passing("it arrived with another length than the Hub announced", state="truncated")
    system = next((one for one in chain if isinstance(one, OSError) and one.errno), None)
    if system is not None:
        return _explain_disk(system)
    if names & {"HTTPError", "KeyError", "TypeError", "ValueError", "AttributeError"}:
        return _no_hub(endpoint, f" ({type(error).__name__})")
    why = f"{type(error).__name__}: {_clean(str(error), token)[:300]}"
    return Unreachable(why, temporary=True, reason="network")


_UNRESOLVED = re.compile(r"getaddrinfo|Name or service not known|nodename nor servname|name resolution|NameResolution")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = next((one for one in (*error.args, getattr(error, "reason", None)) if isinstance(one, Exception)), None)
        error = error.__cause__ or inner or error.__context__


def _explain_answer(response: Any, said: str, repo: str, revision: str | None, name: str, known: bool) -> Unreachable:
    """What an answer of the Hub with an error status means.

    ``said`` is the Hub's own message, ``known`` says whether a token was sent.
    """
    status, code, lower = response.status_code, response.headers.get("X-Error-Code", ""), said.lower()
    if status in _AGAIN:
        return _explain_busy(status, response.headers)
    if code == "GatedRepo" or "gated repo" in lower or "awaiting a review" in lower or "authorized list" in lower:
        if "awaiting" in lower:
            why = f"{repo} is gated, and your request for access awaits a review by its authors: wait for their answer"
        elif "rejected" in lower:
            why = f"{repo} is gated, and its authors rejected your request for access"
        elif known:
            why = f"{repo} is gated, and you have not accepted its terms: do so on https://huggingface.co/{repo}"
        else:
            why = f"{repo} is gated: accept its terms on https://huggingface.co/{repo}, then run `hf auth login`"
        return Unreachable(why, reason="gated")
    if code == "RevisionNotFound" or "invalid rev id" in lower:
        return Unreachable(
            f"{repo} has no revision {revision or 'main'!r}: check the branch, tag or commit", reason="revision"
        )
    if code == "EntryNotFound" or (status == 404 and name and code != "RepoNotFound"):
        return Unreachable(f"there is no {name or 'such file'} in {repo}", state="absent", reason="file")
    if status == 401 and code != "RepoNotFound" and (known or "invalid credentials" in lower or "expired" in lower):
        what = "has expired" if "expired" in lower else "is not accepted (expired, revoked or mistyped)"
        return Unreachable(
            f"your token {what}: run `hf auth login`, or unset HF_TOKEN for a public repository", reason="denied"
        )
    if status in (401, 404, 410):
        why = f"the Hub has no repository {repo}, or it is private and " + (
            "your token may not see it: check the spelling and the token's permissions"
            if known
            else "you are not logged in: check the spelling, or run `hf auth login`"
        )
        return Unreachable(why)
    if "disabled" in lower or status == 451:
        return Unreachable(f"access to {repo} is disabled on the Hub", reason="denied")
    if status == 403:
        why = f"you may not read {repo} with this token: give the token read permission for it"
        return Unreachable(why, reason="denied")
    if status == 407:
        return Unreachable("the proxy wants a log-in: check HTTPS_PROXY", temporary=True, reason="network")
    return Unreachable(f"the Hub answers {status}: {said[:200] or 'no reason given'}", temporary=True, reason="network")


def _explain_busy(status: int, headers: Mapping[str, str]) -> Passing:
    wait = _wanted_wait(headers)
    if status == 429:
        again = f"try again in {wait:,.0f} seconds" if wait else "try again later"
        return Passing(f"the Hub limits the rate of requests: {again}, or log in for a higher limit", wait=wait)
    return Passing(f"the Hub answers {status} and is not well at the moment: try again later", wait=wait)


def _wanted_wait(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to be left alone: Retry-After, else the Hub's RateLimit header."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", value):
        return float(value)
    if value:
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            return 0.0
    reset = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})", headers.get("RateLimit", ""))
    return float(reset[1]) if reset else 0.0


def _explain_disk(error: OSError) -> Unreachable:
    from huggingface_hub import constants

    why = f"the cache {constants.HF_HUB_CACHE} cannot be written ({os_error_sentence(error)}): "
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    cure = "make room, or set HF_HOME to a folder on another disk" if full else "set HF_HOME to a folder you may write"
    return Unreachable(why + cure, temporary=True, reason="disk")


def _no_hub(endpoint: str, detail: str = "") -> Unreachable:
    return Unreachable(
        f"what answers at {_clean(endpoint, None)} is not a Hub{detail}: a proxy or log-in page may be in between, "
        "check HTTPS_PROXY and HF_ENDPOINT",
        state="html",
        temporary=True,
        reason="network",
    )


def _logged_in(token: str | None) -> bool:
    from huggingface_hub import get_token

    return bool(token or get_token())


def _clean(text: str, token: str | None) -> str:
    """The text on one line without anything that opens doors: tokens, passwords in addresses, signed queries."""
    from huggingface_hub import get_token

    for secret in filter(None, (token, get_token())):
        text = text.replace(secret, "[token]")
    text = re.sub(r"\b(hf|api_org|hf_oauth|hf_jwt)_[A-Za-z0-9._-]{6,}", "[token]", text)
    text = re.sub(r"(?i)\b(bearer|basic)\s+\S+", "[token]", text)
    text = re.sub(r"://[^/\s@]+@", "://", text)
    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1", text)
    return " ".join(text.split())
