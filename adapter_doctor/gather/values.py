"""Gather what the values of tensors tell: NaN, infinity, all zero, read from a memory map in chunks."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_doctor.facts import AdapterTensors, BaseCheckpoint, BaseCopies, TensorInfo, TensorValues, ValueSummary
from adapter_doctor.formats.bit_patterns import PATTERNS

if TYPE_CHECKING:
    import numpy as np

CHUNK = 1 << 20
"""Bytes looked at in one go: what a core's cache holds, so that memory does not grow with the file."""
WORTH_A_THREAD = 1 << 26
"""Bytes of a file whose second half is read beside the first."""

_WIDTH = {
    "I64": "i8",
    "U64": "u8",
    "I32": "i4",
    "U32": "u4",
    "I16": "i2",
    "U16": "u2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "u1",
}


def gather_values(path: Path, tensors: AdapterTensors) -> TensorValues:
    """Summaries of every tensor in ``path``; a tensor whose byte range is not known or not there is left out.

    Raises:
        OSError: the file cannot be mapped.
    """
    if path.stat().st_size == 0:
        return TensorValues({})
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        # In the order of the file, so that pages can be dropped once read.
        there = sorted(
            ((name, info) for name, info in tensors.tensors.items() if 0 < info.start <= info.end <= len(view)),
            key=lambda item: item[1].start,
        )
        if len(view) < WORTH_A_THREAD:
            return TensorValues(_summaries(view, there))
        from concurrent.futures import ThreadPoolExecutor

        middle = next((at for at, (_, info) in enumerate(there) if info.start > len(view) // 2), len(there))
        with ThreadPoolExecutor(2) as threads:  # numpy lets go of the interpreter while it reads a chunk
            halves = list(threads.map(lambda half: _summaries(view, half), (there[:middle], there[middle:])))
        return TensorValues(halves[0] | halves[1])


def _summaries(view: mmap.mmap, tensors: Sequence[tuple[str, TensorInfo]]) -> dict[str, ValueSummary]:
    """A summary of each tensor; the map holds no more than two chunks of them at a time."""
    found, dropped = {}, tensors[0][1].start if tensors else 0
    for name, info in tensors:
        if info.end - dropped > CHUNK:
            dropped = _release(view, dropped, info.start)
        found[name] = _summary(view, info)
    return found


def _summary(view: mmap.mmap, info: TensorInfo) -> ValueSummary:
    import numpy as np

    width, mask, first_odd, first_nan = PATTERNS.get(info.dtype, (_WIDTH.get(info.dtype, "u1"), -1, -1, -1))
    kind = np.dtype("<" + width)
    peak = nan = infinite = 0
    ones = info.dtype in _ONES
    for start in range(info.start, info.end, CHUNK):
        count = (min(start + CHUNK, info.end) - start) // kind.itemsize
        bits: np.ndarray[Any, Any] = np.frombuffer(view, kind, count, start)
        if ones:
            one = _ONES[info.dtype]  # the first element tells nearly all others apart, and costs no pass
            ones = count == 0 or bool(bits[0] == one and (bits == one).all())
        if mask != -1:
            bits = bits & kind.type(mask)
        top = max(int(bits.max(initial=0)), -int(bits.min(initial=0)) if mask == -1 else 0)
        if mask != -1 and top >= first_odd:
            odd = bits[bits >= first_odd]
            nans = int((odd >= first_nan).sum())
            nan += nans
            infinite += len(odd) - nans
            bits = bits[bits < first_odd]
            top = int(bits.max(initial=0))
        peak = max(peak, top)
        del bits
        if start > info.start:
            _release(view, start, start + CHUNK)
    return ValueSummary(_magnitude(peak, info.dtype), nan, infinite, ones and info.count > 0)


_ONES = {
    "F64": 0x3FF0_0000_0000_0000, "F32": 0x3F80_0000, "F16": 0x3C00, "BF16": 0x3F80, "F8_E4M3": 0x38, "F8_E5M2": 0x3C,
}  # fmt: skip


def _release(view: mmap.mmap, start: int, end: int) -> int:
    """Let the system take back the pages that lie between, and say where they end; mapped pages count as memory."""
    start, end = (min(place, len(view)) // mmap.PAGESIZE * mmap.PAGESIZE for place in (start, end))
    if end > start and hasattr(mmap, "MADV_DONTNEED"):
        view.madvise(mmap.MADV_DONTNEED, start, end - start)
    return end


def _magnitude(pattern: int, dtype: str) -> float:
    """The value that a bit pattern without its sign stands for."""
    import numpy as np

    if dtype in ("F64", "F32", "F16"):
        kind = {"F64": ("<u8", "<f8"), "F32": ("<u4", "<f4"), "F16": ("<u2", "<f2")}[dtype]
        return float(np.array([pattern], kind[0]).view(kind[1])[0])
    if dtype == "BF16":
        return float(np.array([pattern << 16], "<u4").view("<f4")[0])
    if dtype == "F8_E5M2":
        return float(np.array([pattern << 8], "<u2").view("<f2")[0])
    if dtype == "F8_E4M3":
        exponent, mantissa = pattern >> 3, pattern & 7
        return (mantissa / 8) * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return float(pattern)


def scalar(path: Path, info: TensorInfo) -> float:
    """The value of a tensor with one element.

    Raises:
        ValueError: it is in a format that is not read here, or not in the file.
    """
    import numpy as np

    kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}.get(info.dtype)
    if kind is None or not info.start:
        raise ValueError(f"{info.dtype} is not read here")
    try:
        with path.open("rb") as file:
            file.seek(info.start)
            found = np.frombuffer(file.read(info.end - info.start), kind)
    except OSError as error:
        raise ValueError(str(error)) from None
    if len(found) != 1:
        raise ValueError("it is not in the file")
    return float((found.astype("<u4") << 16).view("<f4")[0] if info.dtype == "BF16" else found[0])


def compare_with_base(
    adapter: Path, copies: Mapping[str, TensorInfo], base: Path, checkpoint: BaseCheckpoint, names: Mapping[str, str]
) -> BaseCopies:
    """Which of the adapter's ``copies`` equal the base tensors that ``names`` maps them to, byte for byte."""
    same: set[str] = set()
    different: set[str] = set()
    unread: set[str] = set()
    for key, info in copies.items():
        other = checkpoint.tensors.get(names.get(key, ""))
        if other is None or other.dtype != info.dtype or other.shape != info.shape:
            unread.add(key)
            continue
        try:
            equal = same_bytes(adapter, info, base / other.file, other)
        except OSError:
            unread.add(key)
        else:
            (same if equal else different).add(key)
    return BaseCopies(frozenset(same), frozenset(different), frozenset(unread))


def same_bytes(one: Path, first: TensorInfo, two: Path, second: TensorInfo) -> bool:
    """Whether two tensors of one size hold the same bytes.

    Raises:
        OSError: a file cannot be read.
    """
    with one.open("rb") as left, two.open("rb") as right:
        left.seek(first.start)
        right.seek(second.start)
        remaining = first.end - first.start
        while remaining > 0:
            size = min(CHUNK, remaining)
            if left.read(size) != right.read(size):
                return False
            remaining -= size
    return True
