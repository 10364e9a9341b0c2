"""A small Hub on loopback: folders served as repositories, with faults to inject, for the real clients to talk to."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

LFS_ENDINGS = (".safetensors", ".bin", ".pt", ".gguf")
_REPO = r"(?P<repo>[^/]+/(?!resolve/|revision/|tree/|refs$|paths-info/)[^/]+|[^/]+)"
_ROUTES = {
    "info": re.compile(rf"/api/models/{_REPO}(/revision/(?P<rev>[^/]+))?"),
    "refs": re.compile(rf"/api/models/{_REPO}/refs"),
    "tree": re.compile(rf"/api/models/{_REPO}/tree/(?P<rev>[^/]+)(/(?P<file>.*))?"),
    "paths": re.compile(rf"/api/models/{_REPO}/paths-info/(?P<rev>[^/]+)"),
    "file": re.compile(rf"/{_REPO}/resolve/(?P<rev>refs/pr/\d+|[^/]+)/(?P<file>.+)"),
    "storage": re.compile(r"/cdn/(?P<blob>[0-9a-f]{64})"),
}


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the answers to a path.

    ``status`` or ``body`` replace the answer. ``delay`` is in seconds before it, ``drip`` between every 100 bytes of
    it. ``cut`` closes the connection after so many bytes of the body; ``claim`` is the Content-Length that it claims (a
    longer one is never fulfilled). ``no_range`` ignores the Range header. ``times`` is how often it strikes, None for
    always.
    """

    status: int | None = None
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drip: float = 0.0
    cut: int | None = None
    claim: int | None = None
    no_range: bool = False
    times: int | None = None


PROXY_PAGE = Fault(
    body=b"<!DOCTYPE html><html><body>Please log in</body></html>", headers={"Content-Type": "text/html"}
)


@dataclass
class Seen:
    """One request as the server saw it. ``began`` and ``ended`` are in seconds, ``sent`` is the body's bytes."""

    method: str
    path: str
    range: str | None
    token: str | None
    began: float
    ended: float = 0.0
    status: int = 0
    sent: int = 0


@dataclass
class Repository:
    """Files by commit, and where branches and tags stand."""

    name: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: str | bool = False
    private: bool = False
    accepted: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)

    def commit_of(self, revision: str) -> str | None:
        """The commit of a branch, tag, or beginning of a commit."""
        if revision in self.refs:
            return self.refs[revision]
        return next((sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision)), None)


class Hollow(bytes):
    """A file's beginning over a hole, for files too long to be held: a true length, and zeros behind the beginning."""

    length: int

    def __new__(cls, beginning: bytes, length: int) -> Hollow:
        """``length`` is that of the whole file in bytes."""
        made = super().__new__(cls, beginning)
        made.length = length
        return made

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, asked: Any) -> Any:
        start, stop, _ = asked.indices(self.length)
        return bytes(self)[start:stop].ljust(max(stop - start, 0), b"\0")

    def __bytes__(self) -> bytes:
        return bytes.__getitem__(self, slice(None))


class Reply(Response):
    """An answer that can be cut, slowed down, or lie about its length."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str], fault: Fault, seen: Seen) -> None:
        super().__init__(b"", status)
        self.content, self.fault, self.seen = body, fault, seen
        claimed = len(body) if fault.claim is None else fault.claim
        fixed = {"content-length": str(claimed), "content-type": "application/octet-stream"}
        merged = fixed | {key.lower(): value for key, value in headers.items()}
        self.raw_headers = [(key.encode(), value.encode("latin-1")) for key, value in merged.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send it, and note what was sent."""
        fault, body = self.fault, self.content
        whole = fault.cut is None and (fault.claim is None or fault.claim <= len(body))
        body = body[: fault.cut if fault.cut is not None else fault.claim]
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for start in range(0, len(body), 100) if fault.drip else ():
            await send({"type": "http.response.body", "body": body[start : start + 100], "more_body": True})
            await asyncio.sleep(fault.drip)
        self.seen.status, self.seen.ended = self.status_code, time.perf_counter()
        self.seen.sent = 0 if scope["method"] == "HEAD" else len(body)
        # An answer left unfinished makes uvicorn close the connection.
        await send({"type": "http.response.body", "body": b"" if fault.drip else body, "more_body": not whole})


class Refusal(Exception):
    """An answer with an error status, as the Hub words it."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class HubServer:
    """The Hub, running in a thread while the context lasts.

    ``latency`` is added to every request, in seconds. ``tokens`` are the valid ones. ``page`` is how many entries a
    page of a listing has. ``sizes`` False leaves sizes out of the repository's description, as some mirrors do.
    """

    def __init__(self, latency: float = 0.0) -> None:
        self.latency = latency
        self.page = 1000
        self.sizes = True
        self.tokens: set[str] = set()
        self.expired: set[str] = set()
        self.seen: list[Seen] = []
        self._repos: dict[str, Repository] = {}
        self._renamed: dict[str, str] = {}
        self._faults: list[tuple[re.Pattern[str], str | None, Fault]] = []
        self._server = uvicorn.Server(
            uvicorn.Config(
                Starlette(routes=[Route("/{path:path}", self._serve, methods=["GET", "HEAD", "POST", "PUT"])]),
                host="127.0.0.1", port=0, log_config=None, log_level="critical", lifespan="off", ws="none",
                timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        self._port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    @property
    def url(self) -> str:
        """The address for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._port}"

    # ---------------------------------------------------------------------------------------- what is served

    def add(
        self, name: str, files: Path | Mapping[str, bytes], *, revision: str = "main", gated: str | bool = False,
        private: bool = False, accepted: set[str] | None = None, waiting: set[str] | None = None,
    ) -> str:  # fmt: skip
        """Commit a folder, or contents by name, to a branch of a repository, and return the commit."""
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in files.rglob("*") if p.is_file()}
        repo = self._repos.setdefault(name, Repository(name))
        repo.gated, repo.private = gated, private
        repo.accepted, repo.waiting = accepted or set(), waiting or set()
        text = f"{name} {len(repo.commits)} " + " ".join(f"{one} {blob_id(files[one])}" for one in sorted(files))
        sha = hashlib.sha1(text.encode()).hexdigest()
        repo.commits[sha] = dict(files)
        repo.refs[revision] = sha
        return sha

    def rename(self, old: str, new: str) -> None:
        """Move a repository; the old name redirects."""
        self._repos[new] = replace(self._repos.pop(old), name=new)
        self._renamed[old] = new

    def fault(self, path: str, fault: Fault, method: str | None = None) -> None:
        """From now on, let this go wrong where the regular expression ``path`` is found in a request's path."""
        self._faults.append((re.compile(path), method, fault))

    def mend(self) -> None:
        """Take all faults back."""
        self._faults.clear()

    # ------------------------------------------------------------------------------------------ what is counted

    def forget(self) -> None:
        """Count from nothing again."""
        self.seen.clear()

    @property
    def sent(self) -> int:
        """Bytes of all bodies."""
        return sum(one.sent for one in self.seen)

    def round_trips(self) -> int:
        """The longest chain of requests of which each began after the one before had been answered.

        Requests sent at once overlap only if there is some latency.
        """
        depth: dict[int, int] = {}
        for index, one in sorted(enumerate(self.seen), key=lambda pair: pair[1].began):
            before = (depth[i] for i, other in enumerate(self.seen) if i in depth and other.ended <= one.began)
            depth[index] = 1 + max(before, default=0)
        return max(depth.values(), default=0)

    # --------------------------------------------------------------------------------------------- the answers

    async def _serve(self, request: Request) -> Reply:
        raw = request.scope["raw_path"].decode("ascii")
        token = request.headers.get("authorization", "").removeprefix("Bearer ") or None
        seen = Seen(request.method, unquote(raw), request.headers.get("range"), token, time.perf_counter())
        self.seen.append(seen)
        fault = self._fault_for(seen)
        await asyncio.sleep(self.latency + fault.delay)
        if fault.status is not None or fault.body is not None:
            return Reply(fault.status or 200, fault.body or b"", fault.headers, fault, seen)
        try:
            status, body, headers = self._answer(raw, request, await request.body(), token)
        except Refusal as refusal:
            status, body = refusal.status, json.dumps({"error": refusal.message}).encode()
            headers = {"X-Error-Message": refusal.message, "Content-Type": "application/json"}
            headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
        if status == 200 and seen.range and not fault.no_range and request.method == "GET":
            status, body, headers = _part(seen.range, body, headers)
        return Reply(status, body, {**headers, **fault.headers}, fault, seen)

    def _fault_for(self, seen: Seen) -> Fault:
        for index, (pattern, method, fault) in enumerate(self._faults):
            if pattern.search(seen.path) and method in (None, seen.method) and fault.times != 0:
                if fault.times is not None:
                    self._faults[index] = (pattern, method, replace(fault, times=fault.times - 1))
                return fault
        return Fault()

    def _answer(self, path: str, request: Request, sent: bytes, token: str | None) -> tuple[int, bytes, dict[str, str]]:
        found = ((kind, pattern.fullmatch(path)) for kind, pattern in _ROUTES.items())
        kind, match = next((pair for pair in found if pair[1] is not None), ("", None))
        if match is None:
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        if kind == "storage":
            return 200, self._stored(match["blob"]), {"ETag": f'"{match["blob"]}"', "Accept-Ranges": "bytes"}
        name = unquote(match["repo"])
        if name in self._renamed:
            query = f"?{request.url.query}" if request.url.query else ""
            return 307, b"", {"Location": path.replace(f"/{match['repo']}", f"/{self._renamed[name]}", 1) + query}
        repo = self._admitted(name, token, files=kind == "file")
        if kind == "refs":
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repo.refs.items()]
            return _json({"branches": branches, "tags": [], "converts": []})
        groups = match.groupdict()
        revision = unquote(groups["rev"] or "main")
        sha = repo.commit_of(revision)
        if sha is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = repo.commits[sha]
        if kind == "info":
            return _json(self._describe(repo, sha, blobs="blobs" in request.query_params))
        if kind == "tree":
            return self._tree(files, path, request)
        if kind == "paths":
            wanted = parse_qs(sent.decode()).get("paths", [])
            return _json([_listed(one, files[one]) for one in wanted if one in files])
        return self._file(files, unquote(groups["file"]), sha)

    def _admitted(self, name: str, token: str | None, *, files: bool) -> Repository:
        """The repository, where the token may see it (and, for ``files``, read it)."""
        if token in self.expired:
            raise Refusal(401, 'User Access Token "laptop" is expired')
        if token is not None and token not in self.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        repo = self._repos.get(name)
        if repo is None or (repo.private and token not in repo.accepted):
            if token is None:
                raise Refusal(401, "Invalid username or password.")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if files and repo.gated and token not in repo.accepted:
            if token is None:
                why = "is restricted. You must have access to it and be authenticated to access it. Please log in."
                raise Refusal(401, f"Access to model {name} {why}", "GatedRepo")
            if token in repo.waiting:
                why = f"Your request to access model {name} is awaiting a review from the repo authors."
                raise Refusal(403, why, "GatedRepo")
            why = "is restricted and you are not in the authorized list. Visit the page to ask for access."
            raise Refusal(403, f"Access to model {name} {why}", "GatedRepo")
        return repo

    def _describe(self, repo: Repository, sha: str, *, blobs: bool) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = []
        for name, content in repo.commits[sha].items():
            one: dict[str, Any] = {"rfilename": name}
            if blobs and self.sizes:
                one |= {"size": len(content), "blobId": blob_id(content)}
                if name.endswith(LFS_ENDINGS):
                    one["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
            siblings.append(one)
        common = {"tags": [], "downloads": 0, "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z"}
        return {
            "_id": "0", "id": repo.name, "modelId": repo.name, "sha": sha, "private": repo.private, "gated": repo.gated,
            "disabled": False, "createdAt": "2026-01-01T00:00:00.000Z", "siblings": siblings, **common,
        }  # fmt: skip

    def _tree(self, files: Mapping[str, bytes], path: str, request: Request) -> tuple[int, bytes, dict[str, str]]:
        start = int(request.query_params.get("cursor", "0"))
        names = sorted(files)
        page = [_listed(name, files[name]) for name in names[start : start + self.page]]
        status, body, headers = _json(page)
        if start + self.page < len(names):
            headers["Link"] = f'<{self.url}{path}?recursive=True&cursor={start + self.page}>; rel="next"'
        return status, body, headers

    def _file(self, files: Mapping[str, bytes], name: str, sha: str) -> tuple[int, bytes, dict[str, str]]:
        content = files.get(name)
        if content is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if not name.endswith(LFS_ENDINGS):
            return 200, content, headers | {"ETag": f'"{blob_id(content)}"'}
        # Another origin than the Hub's, as with the real one: no token may be sent there.
        place = f"http://localhost:{self._port}/cdn/{sha256(content)}?Signature=hf_signed_query_000"
        linked = {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content)), "Location": place}
        return 302, b"", headers | linked

    def _stored(self, blob: str) -> bytes:
        for repo in self._repos.values():
            for files in repo.commits.values():
                for content in files.values():
                    if sha256(content) == blob:
                        return content
        raise Refusal(403, "AccessDenied")


def _json(value: Any) -> tuple[int, bytes, dict[str, str]]:
    return 200, json.dumps(value).encode(), {"Content-Type": "application/json"}


def _listed(name: str, content: bytes) -> dict[str, Any]:
    one: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": blob_id(content)}
    if name.endswith(LFS_ENDINGS):
        one["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
    return one


def _part(asked: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
    """The answer to a Range header of the form ``bytes=first-last``, ``bytes=first-`` or ``bytes=-length``."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
    if match is None:
        return 200, body, headers
    first = int(match[1]) if match[1] else max(0, len(body) - int(match[2]))
    last = min(int(match[2]), len(body) - 1) if match[1] and match[2] else len(body) - 1
    if first >= len(body):
        return 416, b"", headers | {"Content-Range": f"bytes */{len(body)}"}
    return 206, body[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(body)}"}


def blob_id(content: bytes) -> str:
    """The hash that git gives to a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    """The hash that LFS knows the content by."""
    return hashlib.sha256(content).hexdigest()


# ------------------------------------------------------------------------------------------- pointing clients at it


def environment(hub: HubServer, home: Path) -> dict[str, str]:
    """The environment variables with which another process uses this Hub, and a cache of its own below ``home``."""
    _agents(home)
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*"}


def _agents(home: Path) -> Path:
    """The list of programming agents that huggingface_hub 2 fetches once a day: here, so that it is not counted."""
    place = home / ".agent_harnesses.json"
    home.mkdir(parents=True, exist_ok=True)
    place.write_text('{"standardEnvVars": [], "harnesses": {}}')
    return place


@contextmanager
def in_use(hub_url: str, home: Path) -> Iterator[None]:
    """Let huggingface_hub in this process use the Hub at ``hub_url``, and a cache of its own below ``home``.

    Its constants are read from the environment once, on import; so they are replaced here, all of those that name a
    place. Code that copied ``ENDPOINT`` on import is not reached: for transformers and peft start a process.
    """
    from huggingface_hub import constants, utils

    close_session = getattr(utils, "close_session", None) or utils.reset_sessions  # the latter before 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub_url)
        patch.setenv("NO_PROXY", "*")
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setattr(constants, "ENDPOINT", hub_url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub_url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_ASSETS_CACHE", str(home / "assets"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "AGENT_HARNESSES_PATH", str(_agents(home)), raising=False)
        close_session()
        try:
            yield
        finally:
            close_session()
