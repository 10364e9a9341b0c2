"""Start the loading child, feed it requests, and outlive whatever happens to it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess  # the child is our own file, started without a shell
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHILD = Path(__file__).with_name("child.py")
DEFAULT_TIME_LIMIT = 600.0
MAX_ANSWER = 200_000_000
"""Bytes of one answer: a 405B base's module tree takes about 0.3 MB, so this is a guard and no limit."""


class ChildDied(Exception):
    """The child ended, or was ended, without an answer; the message says how."""


class LoadingChild:
    """One child process that can answer many requests, with torch, transformers and peft imported once.

    A context manager: the child is started by the first question and killed on leaving.
    """

    def __init__(self, python: str | None = None, progress: Callable[[str], None] | None = None) -> None:
        self._python = python or sys.executable
        self._progress = progress or (lambda _: None)
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._chatter = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child, whatever it is doing."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # a request was left in a pipe that nobody reads any more
                    continue

    def ask(
        self, request: Mapping[str, Any], time_limit: float = DEFAULT_TIME_LIMIT, offline: bool = True
    ) -> dict[str, Any]:
        """The child's answer to one request (see ``child.answer``). ``time_limit`` is in seconds.

        Raises:
            ChildDied: it could not be started, was killed, crashed, or passed the time limit.
        """
        deadline = time.monotonic() + time_limit
        process = self._start(offline)
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError:  # it has died already: the missing answer below says how
            pass
        while True:
            try:
                line = self._lines.get(timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))
            except queue.Empty:
                self.close()
                raise ChildDied(f"the load was stopped after the time limit of {time_limit:g} seconds") from None
            if line is None:
                raise ChildDied(self._obituary(process))
            message = _message(line)
            if "answer" in message:
                answer: dict[str, Any] = message["answer"]
                return answer
            self._progress(str(message.get("progress", "")))

    def _start(self, offline: bool) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        if offline:
            environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        try:
            self._process = subprocess.Popen(  # noqa: S603 - no shell, our own file
                [self._python, "-X", "utf8", str(CHILD)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
            )  # fmt: skip
        except OSError as error:
            raise ChildDied(f"the interpreter {self._python} could not be started: {error.strerror}") from None
        self._lines, self._chatter = queue.Queue(), bytearray()
        for target in (self._read_answers, self._read_chatter):
            threading.Thread(target=target, args=(self._process,), daemon=True).start()
        return self._process

    def _read_answers(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        lines = self._lines
        try:
            while line := process.stdout.readline(MAX_ANSWER):
                lines.put(line)
        except (OSError, ValueError):  # closed while we read: there will be no more lines
            pass
        lines.put(None)

    def _read_chatter(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        chatter = self._chatter
        try:
            while block := os.read(process.stderr.fileno(), 1 << 16):
                chatter.extend(block)
                del chatter[:-4000]
        except (OSError, ValueError):  # closed while we read
            return

    def _obituary(self, process: subprocess.Popen[bytes]) -> str:
        code = process.wait()
        if code == -signal.SIGKILL:
            return "the loading process was killed (signal 9), which is what the system does when memory runs out"
        if code < 0:
            return f"the loading process was ended by signal {-code} ({signal.Signals(-code).name})"
        last = self._chatter.decode(errors="replace").strip().splitlines()[-1:]
        return f"the loading process ended with code {code}" + (f": {last[0][:300]}" if last else "")


def _message(line: bytes) -> dict[str, Any]:
    """What the child said; empty for what somebody else printed on its output."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
