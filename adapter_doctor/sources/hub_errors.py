"""Say in a sentence what an error on the way to the Hub means and what to do: the one table of them.

Errors are told apart by status, headers and the names of their classes, since huggingface_hub stands on requests
(before 1.0), httpx (1.x) or httpx2 (2.x).
"""

from __future__ import annotations

import errno
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from adapter_doctor.errors import os_error_sentence
from adapter_doctor.sources import Unreachable

AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""


class Passing(Unreachable):
    """Something that may pass by itself. ``wait`` is how many seconds the server asks to be left alone."""

    def __init__(self, why: str, *, wait: float = 0.0, state: str = "unreadable") -> None:
        super().__init__(why, state=state, temporary=True, reason="network")
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for when something went wrong, as far as a sentence needs it.

    ``name`` is the file, empty for the repository's listing. ``secrets`` are the tokens that may have been sent;
    ``cache`` is the folder that downloads go to.
    """

    repo: str
    revision: str | None
    name: str
    endpoint: str
    cache: str
    secrets: tuple[str, ...] = ()


def explain(error: BaseException, request: Request) -> Unreachable:
    """What an error of huggingface_hub, an HTTP library or the operating system means, and what to do.

    The sentence holds no token.
    """
    chain = list(chain_of(error))
    for one in chain:
        if isinstance(one, Unreachable):
            return one
        if (response := getattr(one, "response", None)) is not None:
            said = str(getattr(one, "server_message", "") or response.headers.get("X-Error-Message") or "")
            if "text/html" in response.headers.get("Content-Type", "") and response.status_code not in AGAIN:
                return no_hub(request.endpoint, f" (a web page with status {response.status_code})")
            return _explain_answer(response, _clean(said, request.secrets), request)
    names = {kind.__name__ for one in chain for kind in type(one).__mro__}
    text = " ".join(str(one) for one in chain)
    host = urlsplit(request.endpoint).netloc or request.endpoint
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
        return Unreachable(f"{request.repo!r} cannot be the name of a repository: a Hub id looks like owner/name")
    if names & {"LocalTokenNotFoundError"}:
        return Unreachable("no token is saved: run `hf auth login`", reason="denied")
    if names & {"JSONDecodeError", "FileMetadataError"}:
        return no_hub(request.endpoint)
    if names & {"TransportError", "ConnectionError", "ChunkedEncodingError", "ProtocolError", "RequestException"}:
        return Passing(f"the connection to {host} fails or is cut: check the connection, or use --offline")
    if "Consistency check failed" in text:
        return Passing("it arrived with another length than the Hub announced", state="truncated")
    system = next((one for one in chain if isinstance(one, OSError) and one.errno), None)
    if system is not None:
        return _explain_disk(system, request.cache)
    if names & {"HTTPError", "KeyError", "TypeError", "ValueError", "AttributeError"}:
        return no_hub(request.endpoint, f" ({type(error).__name__})")
    why = f"{type(error).__name__}: {_clean(str(error), request.secrets)[:300]}"
    return Unreachable(why, temporary=True, reason="network")


_UNRESOLVED = re.compile(r"getaddrinfo|Name or service not known|nodename nor servname|name resolution|NameResolution")


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = next((one for one in (*error.args, getattr(error, "reason", None)) if isinstance(one, Exception)), None)
        error = error.__cause__ or inner or error.__context__


def _explain_answer(response: Any, said: str, request: Request) -> Unreachable:
    """What an answer of the Hub with an error status means; ``said`` is the Hub's own message."""
    status, code, lower = response.status_code, response.headers.get("X-Error-Code", ""), said.lower()
    repo, revision, name, known = request.repo, request.revision, request.name, bool(request.secrets)
    if status in AGAIN:
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


def _explain_disk(error: OSError, cache: str) -> Unreachable:
    why = f"the cache {cache} cannot be written ({os_error_sentence(error)}): "
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    cure = "make room, or set HF_HOME to a folder on another disk" if full else "set HF_HOME to a folder you may write"
    return Unreachable(why + cure, temporary=True, reason="disk")


def no_hub(endpoint: str, detail: str = "") -> Unreachable:
    """What is said of something else that answers in the Hub's place."""
    return Unreachable(
        f"what answers at {_clean(endpoint, ())} is not a Hub{detail}: a proxy or log-in page may be in between, "
        "check HTTPS_PROXY and HF_ENDPOINT",
        state="html",
        temporary=True,
        reason="network",
    )


def not_cached(name: str) -> Unreachable:
    """What is said offline of a file that would have to be fetched."""
    return Unreachable(f"the cache has no copy of {name}, and offline mode is on", temporary=True, reason="offline")


def _clean(text: str, secrets: tuple[str, ...]) -> str:
    """The text on one line without anything that opens doors: tokens, passwords in addresses, signed queries."""
    for secret in secrets:
        text = text.replace(secret, "[token]")
    text = re.sub(r"\b(hf|api_org|hf_oauth|hf_jwt)_[A-Za-z0-9._-]{6,}", "[token]", text)
    text = re.sub(r"(?i)\b(bearer|basic)\s+\S+", "[token]", text)
    text = re.sub(r"://[^/\s@]+@", "://", text)
    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1", text)
    return " ".join(text.split())
