"""A repository on the Hugging Face Hub as a source, read through huggingface_hub (0.25 and later) and its cache."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from adapter_doctor.errors import os_error_sentence
from adapter_doctor.reference import Reference
from adapter_doctor.sources import Unreachable
from adapter_doctor.sources.hub_cache import cache_folder, entry_of, shelf_folder, tree_in_cache
from adapter_doctor.sources.hub_connection import Patience, check_content, head_of, opened, quiet, receive
from adapter_doctor.sources.hub_errors import Passing, Request, explain, no_hub, not_cached
from adapter_doctor.sources.hub_shelf import COMMIT, Entry, Shelf, files_in_cache, sizes_below

PARALLEL = 8
LONG_HEADER = 10_000_000
"""Bytes; what claims to be longer waits until it is asked for."""

Answer = TypeVar("Answer")


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
        if not self._offline:
            # Here, and not in the threads that ask: what else is done meanwhile must not compete with a long import.
            import huggingface_hub.hf_api  # noqa: F401
        self._patience = Patience(deadline)
        self._progress = progress
        self._shelf = Shelf(reference.repo, shelf_folder(reference.repo))
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
        return sizes_below(self._prefix, self._entries or {})

    def _list(self) -> Mapping[str, Entry]:
        from huggingface_hub import HfApi

        asked = self._asked or "main"
        if COMMIT.fullmatch(asked) and (kept := self._shelf.listing(asked)):
            self.revision = asked  # a commit does not change, so there is nothing to ask
            return self._checked(kept)
        api: Any = HfApi(token=self._token, library_name="adapter-doctor")
        info = self._ask(
            "",
            lambda: api.model_info(
                self._repo, revision=self._asked, files_metadata=True, timeout=self._patience.silence()
            ),
        )
        if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
            raise no_hub(self._endpoint)
        self.revision = info.sha
        if isinstance(info.id, str) and info.id != self._repo:
            self.renamed_to, self._repo = info.id, info.id
            self._shelf.put_name(info.id)
        found = {one.rfilename: entry_of(one) for one in info.siblings or ()}
        if any(entry is None for entry in found.values()):  # a mirror that knows no sizes here
            tree = self._ask("", lambda: list(api.list_repo_tree(self._repo, recursive=True, revision=self.revision)))
            found = {one.path: entry_of(one) for one in tree if hasattr(one, "size")}
        listing = {name: entry for name, entry in found.items() if entry is not None}
        self._shelf.put_listing(asked, info.sha, listing)
        return self._checked(listing)

    def _list_cached(self) -> Mapping[str, Entry]:
        """The listing without the Hub: of an earlier examination, of `hf download`, or whatever lies in the cache."""
        asked = self._asked or "main"
        if name := self._shelf.name():
            self.renamed_to, self._repo = name, name
        folders = [cache_folder(repo) for repo in dict.fromkeys((self._repo, self._shelf.repo))]
        self.revision = self._shelf.commit_offline(asked, folders)
        if self.revision is not None:
            if listing := self._shelf.listing(self.revision) or tree_in_cache(self._repo, self.revision):
                return self._checked(listing)
            if found := files_in_cache(folders, self.revision):
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
        whole = start == 0 and max(stop, head_of(name)) >= size
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
        """Get at once what will be read next: files whose names fit a pattern, large ones by their header.

        Nothing is raised: what failed is remembered, and raised by the read that needs it.
        """
        if not self._try_to_list():
            return
        names = [name for name in self.files() if any(fnmatchcase(name, pattern) for pattern in patterns)]
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(self._prepare, names))

    def _prepare(self, name: str) -> None:
        with suppress(Unreachable):
            if name.endswith(".json"):
                self.read(name)
                return
            head = self.read(name, 0, head_of(name))
            header = 8 + int.from_bytes(head[:8], "little")  # where it is safetensors; a pickle's is far beyond
            if len(head) < header < LONG_HEADER:
                self.read(name, 0, header)

    def path(self, name: str) -> Path | None:
        """Where the file lies in the cache, or None where it would have to be fetched; ``""`` is the folder itself."""
        if not self._try_to_list():
            return None
        if not name:
            folder = cache_folder(self._repo) / "snapshots" / str(self.revision) / self._prefix
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
                etag_timeout=self._patience.silence(), library_name="adapter-doctor", **options,
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
            raise not_cached(name)
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
                check_content(name, file.read(1024), "", listed, whole=True)
            why = f"the copy in the cache has {size:,} bytes, and the Hub lists {listed:,}: delete {local}"
            raise Unreachable(why, state="truncated", temporary=True, reason="disk")
        return local

    # ---------------------------------------------------------------------------------------- parts of files

    def _read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes of a file that is not in the cache. Its beginning, once read, is kept and grows."""
        size, blob = self._entry(name)
        head = self._heads.get(name) or self._shelf.head(blob)
        if start > len(head):
            self._must_be_online(name)
            return self._ask(name, lambda: self._download(name, start, stop, size))
        if stop > len(head):
            self._must_be_online(name)
            begin, end = len(head), min(size, max(stop, head_of(name)))
            head += self._ask(name, lambda: self._download(name, begin, end, size))
            self._shelf.put_head(blob, head)
        self._heads[name] = head
        return head[start:stop]

    def _must_be_online(self, name: str) -> None:
        if self._offline:
            raise not_cached(name)

    def _download(self, name: str, start: int, stop: int, size: int) -> bytes:
        """Bytes ``start`` to ``stop`` by one request; a server that ignores the range is read up to ``stop``."""
        from huggingface_hub import hf_hub_url

        own = hf_hub_url(self._repo, self._prefix + name, revision=self.revision)
        url = self._located.get(name, own)
        headers = dict(_utils().build_hf_headers(token=self._token, library_name="adapter-doctor"))
        if urlsplit(url).netloc != urlsplit(own).netloc:
            headers.pop("authorization", None)
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        with opened(_utils().get_session(), url, headers, self._patience.silence()) as (response, pieces):
            if response.status_code >= 400 and self._located.pop(name, None):
                raise Passing("the address at the storage server has expired")
            if response.status_code >= 400 and urlsplit(str(response.url)).netloc != urlsplit(own).netloc:
                raise Passing(f"the Hub's storage server answers {response.status_code}: is a firewall in between?")
            _utils().hf_raise_for_status(response)
            received = receive(response, pieces, name, start, stop, size, self._patience)
            if str(response.url) != url:
                self._located[name] = str(response.url)
        return received

    @property
    def _endpoint(self) -> str:
        from huggingface_hub import constants

        return str(constants.ENDPOINT)

    def _ask(self, name: str, call: Callable[[], Answer], limit: float = float("inf")) -> Answer:
        """The answer of ``call``; see :meth:`Patience.ask`. ``name`` is the file in question, empty for the listing."""
        from huggingface_hub import constants, get_token

        secrets = tuple(filter(None, (self._token, get_token())))
        request = Request(self._repo, self._asked, name, self._endpoint, str(constants.HF_HUB_CACHE), secrets)

        def quietly() -> Answer:
            quiet(_utils().get_session())
            return call()

        try:
            return self._patience.ask(quietly, partial(explain, request=request), limit)
        except Unreachable as trouble:
            if name:
                self._failed[name] = trouble
            raise


def _utils() -> Any:
    """huggingface_hub's utilities, which it exports in a way that type checkers do not see."""
    import huggingface_hub.utils

    return huggingface_hub.utils


def _silent_bar() -> Any:
    tqdm: Any = _utils().tqdm

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

    return Silent
