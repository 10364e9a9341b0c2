"""The side of the Hub that takes files: repositories made, blobs stored, commits whole or not at all."""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from urllib.parse import unquote

import yaml
from hub_server import LFS_ENDINGS, HubServer, Refusal, _json, blob_id, sha256
from starlette.requests import Request

_REPO = r"(?P<repo>[^/]+/[^/]+)"
_WRITES = {
    "create": ("POST", re.compile(r"/api/repos/create")),
    "yaml": ("POST", re.compile(r"/api/validate-yaml")),
    "branch": ("POST", re.compile(rf"/api/models/{_REPO}/branch/(?P<rev>.+)")),
    "preupload": ("POST", re.compile(rf"/api/models/{_REPO}/preupload/(?P<rev>.+)")),
    "batch": ("POST", re.compile(rf"/{_REPO}\.git/info/lfs/objects/batch")),
    "store": ("PUT", re.compile(r"/store/(?P<blob>[0-9a-f]{64})")),
    "commit": ("POST", re.compile(rf"/api/models/{_REPO}/commit/(?P<rev>.+)")),
}
WRITES = ("POST", "PUT", "DELETE", "PATCH")


class WritableHub(HubServer):
    """A Hub that also takes uploads, from the tokens in ``writers``.

    ``commits_made`` are the headers and the file names of all commits, as the client sent them.
    """

    def __init__(self, latency: float = 0.0) -> None:
        super().__init__(latency)
        self.writers: set[str] = set()
        self.commits_made: list[tuple[dict[str, Any], list[str]]] = []
        self.pull_requests = 0
        self._blobs: dict[str, bytes] = {}

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a branch."""
        found = self._repos[repo]
        return dict(found.commits[found.refs[revision]])

    def there(self, repo: str) -> bool:
        """Whether the repository exists."""
        return repo in self._repos

    def written(self) -> list[str]:
        """Methods and paths of all requests that ask for a change."""
        return [f"{one.method} {one.path}" for one in self.seen if one.method in WRITES]

    def _answer(self, path: str, request: Request, sent: bytes, token: str | None) -> tuple[int, bytes, dict[str, str]]:
        for kind, (method, pattern) in _WRITES.items():
            match = pattern.fullmatch(path) if request.method == method else None
            if match is None:
                continue
            if kind == "store":
                self._blobs[match["blob"]] = sent
                return 200, b"", {}
            if token is None or token not in self.tokens:
                raise Refusal(401, "Invalid username or password.")
            if token not in self.writers:
                raise Refusal(403, "You don't have the rights to create or change this repository")
            asked: Any = (
                [json.loads(line) for line in sent.splitlines()] if kind == "commit" else json.loads(sent or b"{}")
            )
            groups = {key: unquote(value) for key, value in match.groupdict().items()}
            if groups.get("repo", "") and not self.there(groups["repo"]):
                raise Refusal(404, "Repository not found", "RepoNotFound")
            answer: tuple[int, bytes, dict[str, str]]
            if kind == "create":
                answer = self._create(asked)
            elif kind == "yaml":
                answer = self._validate(asked["content"])
            elif kind == "branch":
                answer = self._branch(groups["repo"], groups["rev"])
            elif kind == "preupload":
                answer = self._preupload(groups["repo"], groups["rev"], asked)
            elif kind == "batch":
                answer = self._batch(asked)
            else:
                answer = self._commit(groups["repo"], groups["rev"], asked, "create_pr" in request.query_params)
            return answer
        return super()._answer(path, request, sent, token)

    def _create(self, asked: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if self.there(name):
            answer = {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
            return 409, json.dumps(answer).encode(), {"Content-Type": "application/json"}
        self.add(
            name, {".gitattributes": b""}, private=asked.get("visibility") == "private", accepted=set(self.writers)
        )
        return _json({"url": f"{self.url}/{name}", "name": name})

    def _validate(self, content: str) -> tuple[int, bytes, dict[str, str]]:
        block = re.match(r"(?s)---\s*\n(.*?)\n---", content)
        try:
            yaml.safe_load(block[1] if block else "")
        except yaml.YAMLError as error:
            return 400, json.dumps({"errors": [{"message": str(error)}]}).encode(), {}
        return _json({"warnings": [], "errors": []})

    def _branch(self, repo: str, revision: str) -> tuple[int, bytes, dict[str, str]]:
        refs = self._repos[repo].refs
        if revision in refs:
            raise Refusal(409, "Reference already exists")
        refs[revision] = refs["main"]
        return _json({})

    def _preupload(self, repo: str, revision: str, asked: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        there = self.files(repo, revision)
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(LFS_ENDINGS) else "regular",
                "shouldIgnore": False,
                **({"oid": blob_id(there[one["path"]])} if one["path"] in there else {}),
            }
            for one in asked["files"]
        ]
        return _json({"files": files})

    def _batch(self, asked: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        objects = [
            {
                **one,
                "authenticated": True,
                "actions": {"upload": {"href": f"{self.url}/store/{one['oid']}", "header": {}}},
            }
            for one in asked["objects"]
        ]
        return _json({"transfer": "basic", "objects": objects})

    def _commit(
        self, repo: str, revision: str, lines: list[dict[str, Any]], as_pull_request: bool
    ) -> tuple[int, bytes, dict[str, str]]:
        header = lines[0]["value"]
        found = self._repos[repo]
        if header.get("parentCommit") not in (None, found.refs[revision]):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = self.files(repo, revision)
        names = []
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if sha256(self._blobs.get(value["oid"], b"")) != value["oid"]:
                    raise Refusal(422, "LFS pointer pointed to a file that does not exist")
                files[value["path"]] = self._blobs[value["oid"]]
            names.append(value["path"])
        if as_pull_request:
            self.pull_requests += 1
            revision = f"refs/pr/{self.pull_requests}"
        sha = self.add(repo, files, revision=revision, private=found.private, accepted=found.accepted)
        self.commits_made.append((header, names))
        place = f"{self.url}/{repo}"
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{place}/commit/{sha}"}
        return _json(answer | {"pullRequestUrl": f"{place}/discussions/{self.pull_requests}", "hookOutput": ""})
