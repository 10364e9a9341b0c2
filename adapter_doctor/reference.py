"""Parse and print references: what a user types to name a base model or an adapter."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from adapter_doctor.errors import DoctorError

HUB_HOSTS = ("huggingface.co", "hf.co")

# As the Hub has it (huggingface_hub/utils/_validators.py); "--" and ".." are refused there too.
_REPO = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?(?<![.-])(?<!\.git)", re.ASCII)
# The revisions whose slashes need no %2F (huggingface_hub/utils/_hf_uris.py).
_SLASHED = re.compile(r"refs/(?:pr/\d+|convert/[\w.-]+)(?=/|$)", re.ASCII)
# What git allows in the name of a branch or tag, less what would mean something in a path or an address.
_REVISION = re.compile(r"(?!.*(\.\.|//|@\{))[^\s\x00-\x20\x7f~^:?*\[\\/.-][^\s\x00-\x20\x7f~^:?*\[\\]*(?<![/.])")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_FILES = frozenset(
    {"adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "config.json", "model.safetensors"}
)
_FOLDER_PAGES = frozenset({"tree", "commit", "commits"})
_FILE_PAGES = frozenset({"blob", "resolve", "raw", "blame", "edit"})
_OTHER_KINDS = {
    "datasets": "a dataset", "spaces": "a Space", "kernels": "a kernel", "buckets": "a bucket",
    "collections": "a collection", "papers": "a paper", "docs": "documentation", "blog": "a blog post",
    "settings": "a settings page", "tasks": "a task page", "organizations": "an organization", "learn": "a course",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reference:
    """A folder on disk (``path``), or a repository on the Hub (``repo``, ``revision``, ``subfolder``).

    ``text`` names the same thing again when parsed. ``shadowed`` is set where a folder was taken although its name
    could be a repository's too; ``hf://`` in front of the name means the repository.
    """

    text: str
    path: Path | None = None
    repo: str | None = None
    revision: str | None = None
    subfolder: str | None = None
    shadowed: bool = False

    def __str__(self) -> str:
        return self.text


def looks_like_path(text: str) -> bool:
    """Whether the text can only be meant as a path: absolute, relative with dots, with ``~`` or backslashes."""
    return text.startswith(("/", "./", "../", "~", "\\", ".\\", "..\\")) or text in (".", "..") or text[1:3] == ":\\"


def parse(text: str, *, revision: str | None = None, subfolder: str | None = None) -> Reference:
    """The reference that ``text`` names: a folder that exists, else a repository, else a folder that does not exist.

    A repository is ``owner/name[@revision][/subfolder]``, the same after ``hf://``, or the web address of a
    repository, of a folder or of a file in it (then its folder is meant). A revision with slashes other than
    ``refs/pr/N`` is written with ``%2F``. ``revision`` and ``subfolder`` are options given beside the text.

    Raises:
        DoctorError: nothing can be meant by it, or the options contradict the text.
    """
    if not text.strip():
        raise DoctorError("an empty reference names nothing", "give a folder or a Hub id such as owner/name")
    if "\0" in text:
        raise DoctorError("a reference cannot contain a NUL character")
    bare = text.strip()
    if scheme := _SCHEME.match(bare):
        found = _from_uri(bare) if scheme[1].lower() == "hf" else _from_address(bare)
    elif (on_disk := _exists(text)) or looks_like_path(text):
        return _folder(text, revision, subfolder, shadowed=on_disk and _is_repository(bare))
    elif bare.partition("/")[0].lower() in _hosts():
        found = _from_address(f"https://{bare}")
    elif _is_repository(bare):
        found = _repository("", *_split(bare))
    else:
        return _folder(text, revision, subfolder)
    return _repository(
        "hf://" if found.text.startswith("hf://") else "",
        found.repo or "",
        _agreed("revision", found.revision, revision, bare),
        _agreed("subfolder", found.subfolder, _folder_of(subfolder) if subfolder else None, bare),
    )


def _exists(text: str) -> bool:
    try:
        path = _expanded(text)
        return path.exists() or path.is_symlink()
    except (OSError, ValueError):  # a name that the file system refuses
        return False


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name, and there is no user of that name: then it is a name like any other
        return Path(text)


def _folder(text: str, revision: str | None, subfolder: str | None, *, shadowed: bool = False) -> Reference:
    if revision is not None:
        hint = f"for the repository on the Hub write hf://{text.strip()}" if shadowed else "leave the revision out"
        raise DoctorError(f"{text!r} is a folder, and the revision {revision!r} has no meaning for it", hint)
    if subfolder is not None:
        text = str(Path(text) / _clean_folder(subfolder))
        text = text if looks_like_path(text) else f"./{text}"
    return Reference(text, path=_expanded(text), shadowed=shadowed and subfolder is None)


def _repository(prefix: str, repo: str, revision: str | None, subfolder: str | None) -> Reference:
    if not _REPO.fullmatch(repo) or (prefix and repo.partition("/")[0] in ("models", *_OTHER_KINDS)):
        raise DoctorError(f"{repo[:200]!r} cannot be the name of a repository", "a Hub id looks like owner/name")
    if revision is None and subfolder is not None and ("/" not in repo or "@" in subfolder):
        revision = "main"  # what the Hub takes where none is given; without it the text would name something else
    text = prefix + repo
    if revision is not None:
        if not _REVISION.fullmatch(revision):
            raise DoctorError(
                f"{revision[:200]!r} cannot be a revision", "give a branch, a tag, a commit or refs/pr/NUMBER"
            )
        text += "@" + (revision if _SLASHED.fullmatch(revision) else revision.replace("%", "%25").replace("/", "%2F"))
    if subfolder is not None:
        text += f"/{subfolder}"
    return Reference(text, repo=repo, revision=revision, subfolder=subfolder)


def _is_repository(text: str) -> bool:
    """Whether the text has the form of a repository's name, with or without revision and subfolder."""
    parts = text.split("/")
    name = "/".join(parts[:2]).partition("@")[0].removesuffix("/")
    return bool(_REPO.fullmatch(name)) and not text.startswith(f"{name}//") and not {".", ".."} & set(parts)


def _split(body: str) -> tuple[str, str | None, str | None]:
    """Repository, revision and subfolder of ``owner/name[@revision][/subfolder]``."""
    name, at, rest = body.partition("@")
    if not at:
        parts = body.split("/")
        return "/".join(parts[:2]).removesuffix("/"), None, _folder_of("/".join(parts[2:]))
    if name.count("/") > 1:
        hint = "write owner/name@revision/subfolder"
        raise DoctorError(f"{body[:200]!r} has its revision after the subfolder, expected it after the name", hint)
    if not rest:
        raise DoctorError(f"{body[:200]!r} has no revision after the @", "leave the @ out for the default branch")
    revision, folder = _split_revision(rest)
    return name, revision, _folder_of(folder)


def _split_revision(rest: str) -> tuple[str, str]:
    """The revision at the start of ``revision[/folder]``, decoded, and the folder."""
    if slashed := _SLASHED.match(rest):
        return slashed[0], rest[slashed.end() + 1 :]
    revision, _, folder = rest.partition("/")
    return unquote(revision), folder


def _clean_folder(folder: str) -> str:
    parts = [part for part in map(str.strip, folder.split("/")) if part not in ("", ".")]
    if ".." in parts or any(ord(character) < 32 for character in folder):
        raise DoctorError(f"the subfolder {folder[:200]!r} leads out of the repository, expected one in it")
    return "/".join(parts)


def _folder_of(place: str) -> str | None:
    """The subfolder that is meant by a place below a repository: a model's or adapter's file means its folder."""
    folder = _clean_folder(place)
    while folder.rpartition("/")[2] in _FILES:
        folder = folder.rpartition("/")[0]
    return folder or None


def _from_uri(text: str) -> Reference:
    """The reference of ``hf://[models/]owner/name[@revision][/subfolder]``."""
    body = text.partition("://")[2].strip("/")
    kind, _, rest = body.partition("/")
    if kind in _OTHER_KINDS:
        raise DoctorError(f"{text[:200]!r} is {_OTHER_KINDS[kind]}, expected a model", "give hf://owner/name")
    return _repository("hf://", *_split(rest if kind == "models" else body))


def _endpoint() -> SplitResult:
    """The address in HF_ENDPOINT, for a Hub other than the public one; empty where it is not set."""
    try:
        return urlsplit(os.environ.get("HF_ENDPOINT", ""))
    except ValueError:
        return urlsplit("")


def _host(address: SplitResult) -> str:
    return address.netloc.rpartition("@")[2].lower()


def _hosts() -> set[str]:
    return {*HUB_HOSTS, *(f"www.{host}" for host in HUB_HOSTS), _host(_endpoint())} - {""}


def _from_address(text: str) -> Reference:
    """The reference of a web address. User names, passwords, queries and fragments in it are dropped."""
    try:
        address = urlsplit(text)
    except ValueError:
        raise DoctorError("the web address cannot be read", "give owner/name") from None
    host, endpoint = _host(address), _endpoint()
    if address.scheme not in ("http", "https") or host not in _hosts():
        raise DoctorError(
            f"'{address.scheme}://{host[:100]}' is not the address of a Hub",
            "give owner/name, an address on huggingface.co, or a folder; for another Hub set HF_ENDPOINT",
        )
    path = address.path.removeprefix(endpoint.path.rstrip("/")) if host == _host(endpoint) else address.path
    parts = [part for part in path.split("/") if part]
    if parts[:2] == ["api", "models"]:
        parts = parts[2:]
    if parts[:1] == ["models"]:
        parts = parts[1:]
    if not parts:
        raise DoctorError("the web address names no repository", "give owner/name")
    if parts[0] in _OTHER_KINDS:
        raise DoctorError(f"the web address is that of {_OTHER_KINDS[parts[0]]}, expected a model", "give owner/name")
    return _from_page(parts)


def _from_page(parts: list[str]) -> Reference:
    """The reference of ``owner/name[/page/revision/…]``, given as the parts of an address's path."""
    pages = _FOLDER_PAGES | _FILE_PAGES
    length = 1 if parts[1:2] and parts[1] in pages else 2
    repo, page, rest = "/".join(parts[:length]), parts[length : length + 1], parts[length + 1 :]
    if page and page[0] not in pages:
        raise DoctorError(f"the web address is that of a page {page[0][:100]!r}, expected a repository or its files")
    if not rest:
        return _repository("hf://", repo, None, None)
    revision, folder = _split_revision("/".join(unquote(part).replace("/", "%2F") for part in rest))
    if page[0] in _FILE_PAGES:
        folder = folder.rpartition("/")[0]
    return _repository("hf://", repo, revision, _folder_of(folder))


def _agreed(kind: str, written: str | None, given: str | None, text: str) -> str | None:
    """The one of both that is there.

    Raises:
        DoctorError: they differ.
    """
    if written is not None and given and written != given:
        raise DoctorError(
            f"{text[:200]!r} names the {kind} {written!r}, and the option the {kind} {given!r}", "give one of them"
        )
    return written if written is not None else given or None
