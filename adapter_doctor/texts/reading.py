"""Read a traceback, log or notebook of any size within bounds: its lines without terminal noise, ready for matching.

Terminals wrap lines anywhere, logs put a time or a rank in front, progress bars run through. So lines are cleaned, and
messages are matched with all white space taken out, which no wrapping can change.
"""

from __future__ import annotations

import io
import json
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import BinaryIO

WHOLE = 8 << 20
"""Bytes up to which a text is read whole; of a longer one only the surroundings of what looks like a message."""
_NOTEBOOK = 64 << 20
_CHUNK = 4 << 20
_FRONT, _BACK = 2 << 20, 2 << 20
_ANCHORS = {
    # What to look for in a long text, and how many bytes from there on belong to it. Each is searched for by memchr,
    # which costs 0.07 s for 100 MB; one alternation of them would take a second.
    b"Error(s) in loading": 2 << 20, b"missing adapter keys": 2 << 20, b"LOAD REPORT": 1 << 20, b"size mismatch": 1 << 16,
    b"not initialized from": 1 << 18, b"_IncompatibleKeys": 1 << 20, b"Traceback": 1 << 14, b"Error": 1 << 13, b"ERROR": 1 << 12,
    b"Exception": 1 << 13, b"Warning": 1 << 13, b"failed": 1 << 12, b"error:": 1 << 12,
    b"lora key not loaded": 1 << 12,
}  # fmt: skip
_HITS_A_CHUNK = 800
_SAME = 3
_BEFORE = 1 << 10

_ANSI = re.compile(r"\x1b(?:\[[0-?]{0,40}[ -/]{0,9}[@-~]|\][^\x07\x1b]{0,2000}(?:\x07|\x1b\\)?|[@-Z\\-_])")
_PREFIX = re.compile(
    r"\s*(?:"
    r"\[?(?:rank|Rank|RANK)[ :_=]?\d{1,6}\]?:? ?"
    r"|\[default\d{1,6}\]:"
    r"|\[\d{1,6},\d{1,6}\]<std(?:err|out)>: ?"
    r"|\([\w.:]{1,60} (?:pid=\d{1,9}|rank=\d{1,6})[^)]{0,100}\) ?"  # Ray, vLLM's processes
    r"|[A-Za-z][\w.-]{0,60}(?:-\d{1,6}|/\d{1,6}) {1,20}\| ?"  # docker compose
    r"|\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,\d]{0,12}(?:Z|[+-]\d\d:?\d\d)?\]?,? ?"
    r"|(?:ERROR|WARNING|INFO|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[?[\w.]{1,80}:\d{1,6}\] ?"  # vLLM
    r"|\[(?:INFO|WARNING|ERROR)\|[\w.]{1,80}:\d{1,6}\]"  # transformers
    r"|\d{1,5}: (?=\S)"  # srun --label
    r"|> (?=\S)"  # quoted in a mail or an issue
    r")"
)
_BAR = re.compile(r"[^|\n]{0,120}\d{1,3}%\|[^|\n]{0,400}\| ?[\d.]{1,12}[kMG]?/")
# In a traceback, the line after a frame's is source code, unless it is an exception or the rest of a wrapped frame.
_FRAME = re.compile(r'File "[^"]{1,1000}", line \d{1,7}, in ')
_AFTER_FRAME = re.compile(r"[\w.]{0,120}(?:Error|Exception|Warning|Interrupt|Exit)\b|[\w<>]{1,60}$|File ")
_SOURCE = re.compile(
    r"(?:❱ {0,4})?\d{1,6} {1,4}│|(?:-{1,9}> ?)?(?:\d{1,6} +)?(?:raise [\w.]{1,100}(?:\(|$)|f[\"'])|[~^ ]{3,}$"
)
_BOX = "│┃║╭╮╰╯"
_ESCAPED = ("\\n\\t", "\\n  File", "\\nTraceback", "\\n\\n")


@dataclass(frozen=True)
class Text:
    """The lines of a text with their numbers in it, from 1, cleaned; ``size`` is that of the whole in bytes.

    ``partial`` is set where only the surroundings of messages were kept.
    """

    lines: tuple[tuple[int, str], ...] = ()
    size: int = 0
    partial: bool = False

    @cached_property
    def squeezed(self) -> str:
        """All lines without any white space."""
        return "".join(self._parts)

    @cached_property
    def _parts(self) -> list[str]:
        return ["".join(line.split()) for _, line in self.lines]

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate((len(part) for part in self._parts), initial=0))

    def at(self, offset: int) -> tuple[int, str]:
        """Number and text of the line that holds a place in ``squeezed``."""
        if not self.lines:
            return 0, ""
        return self.lines[min(bisect_right(self._starts, offset) - 1, len(self.lines) - 1)]


def read(stream: BinaryIO) -> Text:
    """The text of a stream, read once from front to back; a notebook's error outputs where it is one."""
    first = stream.read(WHOLE + 1)
    if first[:2] in (b"\xff\xfe", b"\xfe\xff"):  # what PowerShell's `>` writes
        return _of(first[: WHOLE + 1].decode("utf-16", "replace"), len(first))
    if _is_notebook(first):
        first += stream.read(_NOTEBOOK - len(first))
        outputs = _outputs(first)
        if outputs is not None:
            return _of(outputs, len(first))
    if len(first) <= WHOLE:
        return _of(first.decode("utf-8", "replace"), len(first))
    return scanned(first, stream)


def read_string(text: str) -> Text:
    """The same of a text in memory."""
    if len(text) <= WHOLE and not text.lstrip().startswith("{"):
        return _of(text, len(text))
    return read(io.BytesIO(text.encode("utf-8", "replace")))


def is_text(stream: BinaryIO) -> bool:
    """Whether a seekable stream begins as a text does; it is left at its start."""
    first = stream.read(4096)
    stream.seek(0)
    return first[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" not in first


# -------------------------------------------------------------------------------------------------------- cleaning


def _of(text: str, size: int) -> Text:
    return Text(tuple(_clean(text, 1)), size)


def _clean(text: str, first: int) -> Iterator[tuple[int, str]]:
    """The lines of a text, numbered from ``first``; those of strings printed with their escapes, as in JSON logs, too.

    Lines of source code in a traceback are left out: they hold messages that were never said.
    """
    after_frame = False
    escaped = any(sign in text for sign in _ESCAPED)
    for number, line in enumerate(text.split("\n"), first):
        if "\x1b" in line:
            line = _ANSI.sub("", line)
        if escaped:
            line = line.replace("\\n", "\n").replace("\\t", "\t")
        for part in line.replace('\\"', '"').replace("\r", "\n").split("\n"):
            if "%|" in part and _BAR.match(part):
                continue
            part = _without_prefix(part).strip(_BOX + " \t")
            source = bool(_SOURCE.match(part) or (after_frame and not _AFTER_FRAME.match(part)))
            after_frame = bool(_FRAME.match(part))
            if part and (after_frame or not source):
                yield number, part


def _without_prefix(line: str) -> str:
    for _ in range(4):
        found = _PREFIX.match(line)
        if found is None:
            break
        line = line[found.end() :]
    return line


# ------------------------------------------------------------------------------------------------------- notebooks


def _is_notebook(first: bytes) -> bool:
    return first.lstrip()[:1] == b"{" and b'"cells"' in first[:WHOLE] and b'"cell_type"' in first[:WHOLE]


def _outputs(content: bytes) -> str | None:
    """What the cells of a notebook wrote to stderr and raised, or None where this is no notebook."""
    try:
        cells = json.loads(content)["cells"]
        outputs = [one for cell in cells for one in cell.get("outputs", ())]
        found = []
        for one in outputs:
            if one.get("output_type") == "error":
                trace = "\n".join(one.get("traceback") or ())
                last = f"{one.get('ename')}: {one.get('evalue')}"
                found.append(trace if str(one.get("evalue")) in _ANSI.sub("", trace) else f"{trace}\n{last}")
            elif one.get("output_type") == "stream":
                found.append("".join(one.get("text") or ()))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return "\n".join(found)


# -------------------------------------------------------------------------------------------------------- long texts


def scanned(first: bytes, stream: BinaryIO) -> Text:
    """A long text: the surroundings of what looks like a message, the first and the last of them within bounds."""
    front: list[tuple[int, bytes]] = []
    back: deque[tuple[int, bytes]] = deque()
    room, held, size, line, seen = _FRONT, 0, 0, 1, dict[bytes, int]()
    carried = 0
    for chunk in _chunks(first, stream):
        spans, carried = _spans(chunk, carried, seen)
        at = counted = 0
        for start, end in spans:
            counted += chunk.count(b"\n", at, start)
            at = start
            kept = (line + counted, chunk[start:end])
            if room > 0:
                front.append(kept)
                room -= len(kept[1])
            else:
                back.append(kept)
                held += len(kept[1])
                while held > _BACK and len(back) > 1:
                    held -= len(back.popleft()[1])
        line += counted + chunk.count(b"\n", at)
        size += len(chunk)
    lines: list[tuple[int, str]] = []
    for number, kept_bytes in (*front, *back):
        lines.extend(_clean(kept_bytes.decode("utf-8", "replace"), number))
    return Text(tuple(lines), size, partial=True)


def _chunks(first: bytes, stream: BinaryIO) -> Iterator[bytes]:
    """The stream in pieces that end with a line, where lines are not longer than a piece."""
    rest = first
    while True:
        more = stream.read(_CHUNK)
        block = rest + more
        cut = block.rfind(b"\n") + 1 if more else len(block)
        if block:
            yield block[: cut or len(block)]
        rest = block[cut:] if cut else b""
        if not more:
            return


def _spans(chunk: bytes, carried: int, seen: dict[bytes, int]) -> tuple[list[tuple[int, int]], int]:
    """The parts of a chunk to keep, and how many bytes of the next one belong to the last of them.

    The same line, numbers aside, opens a part three times at most: a log may repeat one complaint a million times.
    """
    spans = [(0, min(carried, len(chunk)))] if carried else []
    beyond = max(0, carried - len(chunk))
    for anchor, extent in _ANCHORS.items():
        at = 0
        for _ in range(_HITS_A_CHUNK):
            at = chunk.find(anchor, at)
            if at < 0:
                break
            start = chunk.rfind(b"\n", max(0, at - 2000), at) + 1 or max(0, at - 2000)
            print_of = chunk[max(start, at - 60) : at + 60].translate(None, b"0123456789")
            seen[print_of] = seen.get(print_of, 0) + 1
            if seen[print_of] > _SAME or len(seen) > 20_000:
                at = chunk.find(b"\n", at) + 1 or len(chunk)
                continue
            before = chunk.rfind(b"\n", 0, max(0, start - _BEFORE)) + 1
            spans.append((max(before, start - 2 * _BEFORE, 0), min(start + extent, len(chunk))))
            beyond = max(beyond, start + extent - len(chunk))
            at = start + extent
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged, beyond
