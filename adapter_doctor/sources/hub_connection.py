"""Ask over a connection that may be slow, cut or busy: retries, time limits, and answers that are what was asked for."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from typing import Any, TypeVar

from adapter_doctor.sources import Unreachable
from adapter_doctor.sources.hub_errors import AGAIN, Passing

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

_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.safetensors$")
_POINTER = b"version https://git-lfs"
_impatient = threading.local()

Answer = TypeVar("Answer")


class Patience:
    """How long to wait and how often to ask again; ``deadline`` is a value of ``time.monotonic()``, or None."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline

    def remaining(self) -> float:
        """Seconds left."""
        return float("inf") if self._deadline is None else self._deadline - time.monotonic()

    def silence(self) -> float:
        """Seconds to wait for the next byte."""
        return max(0.1, min(SILENCE, self.remaining()))

    def ask(
        self, call: Callable[[], Answer], explain: Callable[[Exception], Unreachable], limit: float = float("inf")
    ) -> Answer:
        """The answer of ``call``, tried again while what hinders it may pass and there is time.

        ``limit`` is in seconds, for one attempt.

        Raises:
            Unreachable: as ``explain`` has it; nothing of the original error, which may hold a token, is attached.
        """
        for pause in (*PAUSES, None):
            try:
                return _in_time(call, min(limit, self.remaining()))
            # The libraries below raise what they like, also for answers that are no Hub's: none of it is our bug or
            # the adapter's defect, and all of it must end as a sentence.
            except Exception as error:
                trouble = explain(error)
            if pause is None or not isinstance(trouble, Passing):
                break
            pause = max(pause, trouble.wait)
            if pause > min(LONGEST_WAIT, self.remaining()):
                break
            time.sleep(pause)
        raise trouble


def _in_time(call: Callable[[], Answer], limit: float) -> Answer:
    """The answer of ``call``, which is left behind in its thread after ``limit`` seconds.

    Look-ups of names, locks on the cache and the retries of huggingface_hub know no limit of ours.
    """
    if limit <= 0:
        raise Unreachable("the time limit was used up before", temporary=True, reason="network")
    answer: Future[Answer] = Future()

    def run() -> None:
        _impatient.on = True
        try:
            answer.set_result(call())
        except BaseException as error:  # handed to the thread that waits
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    wait_for((answer,), min(limit, threading.TIMEOUT_MAX))
    if not answer.done():
        raise Unreachable("the Hub did not answer within the time limit", temporary=True, reason="network")
    return answer.result()


class _Refused(Exception):
    """An answer that huggingface_hub would sit out, heedless of our time limit."""

    def __init__(self, response: Any) -> None:
        super().__init__(f"the server answers {response.status_code}")
        self.response = response


def quiet(session: Any) -> None:
    """Let answers such as 429 and 503 reach us at once, and nothing be logged on the way; in our own threads only.

    huggingface_hub from 1.0 retries them inside ``hf_hub_download``, for as long as Retry-After says, and logs the
    addresses, which may be signed.
    """
    hooks = getattr(session, "event_hooks", None)  # httpx; with requests nothing is retried
    if hooks is not None and _refuse not in hooks["response"]:
        session.event_hooks = {**hooks, "response": [*hooks["response"], _refuse]}
    for name in ("huggingface_hub.file_download", "huggingface_hub.utils._http"):
        logging.getLogger(name).addFilter(_is_not_ours)


def _is_not_ours(_: logging.LogRecord) -> bool:
    return not getattr(_impatient, "on", False)


def _refuse(response: Any) -> None:
    if getattr(_impatient, "on", False) and response.status_code in AGAIN:
        raise _Refused(response)


@contextmanager
def opened(session: Any, url: str, headers: dict[str, str], timeout: float) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """An answer whose body is still to come, and the pieces of that body; the session is of httpx or of requests."""
    if callable(getattr(session, "stream", None)):  # httpx
        with session.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            yield response, response.iter_bytes()
    else:
        with session.get(url, headers=headers, timeout=timeout, stream=True) as response:
            yield response, response.iter_content(16_384)


def head_of(name: str) -> int:
    """Bytes to ask for at the start of a file: a checkpoint of many shards has short headers."""
    shard = _SHARD.search(name)
    return max(LEAST_HEAD, SHARD_HEADS // max(1, int(shard[1]))) if shard else HEAD


def receive(
    response: Any, pieces: Iterator[bytes], name: str, start: int, stop: int, size: int, patience: Patience
) -> bytes:
    """Bytes ``start`` to ``stop`` of a file of ``size`` bytes; a server that ignores the range is read up to ``stop``.

    Raises:
        Unreachable: what comes is something else, or less.
    """
    partial = response.status_code == 206
    skip = 0 if partial else start
    enough = skip + stop - start
    received = bytearray()
    for piece in pieces:
        received += piece
        if len(received) >= enough or patience.remaining() <= 0:
            break
    check_content(name, bytes(received), response.headers.get("content-type", ""), enough, whole=skip == start)
    total = response.headers.get("content-range" if partial else "content-length", "").rpartition("/")[2]
    if total.isdigit() and int(total) != size and "content-encoding" not in response.headers:
        raise Passing(f"the Hub lists {size:,} bytes and serves {int(total):,}", state="truncated")
    if len(received) < enough:
        raise Passing(f"the connection ended after {len(received):,} of {enough:,} bytes")
    return bytes(received[skip:enough])


def check_content(name: str, content: bytes, kind: str, expected: int, *, whole: bool) -> None:
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
