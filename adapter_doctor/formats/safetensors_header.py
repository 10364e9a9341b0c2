"""Read the header of a safetensors file: names, dtypes, shapes and byte ranges, checked against the file's length."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter_doctor.facts import TensorInfo

MAX_HEADER = 100_000_000
"""The safetensors library's own limit on the header, in bytes."""

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits an element takes, by safetensors' dtype names."""


class BadHeader(ValueError):
    """Not a usable safetensors file. ``state`` is as in :class:`adapter_doctor.facts.FileState`."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(message)
        self.state = state


@dataclass(frozen=True, slots=True)
class Header:
    """The parsed header; byte ranges of the tensors count from the start of the file."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def header_length(first: bytes, size: int) -> int:
    """Length of the header in bytes, read from the file's first eight.

    ``size`` is the length of the whole file in bytes.

    Raises:
        BadHeader: a pointer or web page instead of the file, or a length that cannot be.
    """
    if size == 0:
        raise BadHeader("empty", "the file is empty")
    if first.startswith(b"version "):
        raise BadHeader("pointer", "it is a Git LFS pointer, not the weights")
    if first.lstrip().lower().startswith((b"<!doc", b"<html", b"<?xml")):
        raise BadHeader("html", "it is a web page, not the weights")
    if len(first) < 8:
        raise BadHeader("truncated", f"the file has {size} bytes, too few for a safetensors header")
    (length,) = struct.unpack("<Q", first[:8])
    if length > MAX_HEADER:
        raise BadHeader("unreadable", f"the header claims {length:,} bytes; no safetensors header is that long")
    if 8 + length > size:
        raise BadHeader("truncated", f"the header needs {8 + length:,} bytes, and the file has {size:,}")
    if length < 2:
        raise BadHeader("unreadable", f"the header claims {length} bytes, too few for any content")
    return int(length)


def parse_header(raw: bytes, size: int, file: str = "") -> Header:
    """The header's contents. ``raw`` are its bytes without the leading eight; ``size`` is the whole file's length.

    Raises:
        BadHeader: not JSON, wrong types, an unknown dtype, ranges that overlap, leave holes or pass the file's end.
    """
    try:
        entries = json.loads(raw.decode("utf-8"))
        "".join(entries if isinstance(entries, dict) else ()).encode()  # a lone surrogate is JSON to Python alone
    except (ValueError, RecursionError):
        raise BadHeader("unreadable", "the header is not JSON") from None
    if not isinstance(entries, dict):
        raise BadHeader("unreadable", "the header is not a JSON object")
    metadata = entries.pop("__metadata__", None) or {}
    begin = 8 + len(raw)
    tensors = {name: _tensor(name, entry, begin, file) for name, entry in entries.items()}
    _check_ranges(tensors, begin, size)
    if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
        raise BadHeader("unreadable", "the header's __metadata__ is not a map of strings")
    return Header(tensors, metadata)


def _tensor(name: str, entry: Any, begin: int, file: str) -> TensorInfo:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise BadHeader("unreadable", f"the header's entry for {name[:100]!r} is malformed") from None
    numbers = [*shape, start, end] if isinstance(shape, list) else [None]
    if any(type(number) is not int or not 0 <= number < 1 << 63 for number in numbers):
        raise BadHeader("unreadable", f"the header's entry for {name[:100]!r} has a shape or range that is no number")
    bits = BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise BadHeader("unreadable", f"{name[:100]!r} has the unknown dtype {str(dtype)[:40]!r}")
    info = TensorInfo(dtype, tuple(shape), begin + start, begin + end, file)
    needed = (info.count * bits + 7) // 8
    if end - start != needed:
        raise BadHeader(
            "unreadable",
            f"{name[:100]!r} of shape {shape} in {dtype} takes {needed:,} bytes, but its range has {end - start:,}",
        )
    return info


def _check_ranges(tensors: Mapping[str, TensorInfo], begin: int, size: int) -> None:
    reached = begin
    for info in sorted(tensors.values(), key=lambda one: (one.start, one.end)):
        if info.start != reached:
            trouble = "overlap" if info.start < reached else "leave a hole"
            raise BadHeader(
                "unreadable", f"the byte ranges of the tensors {trouble} at offset {min(info.start, reached):,}"
            )
        reached = info.end
    if reached > size:
        raise BadHeader(
            "truncated", f"the header promises {reached:,} bytes, and the file has {size:,} ({size / reached:.0%})"
        )
    if reached < size:
        raise BadHeader("unreadable", f"{size - reached:,} bytes follow the last tensor, which safetensors refuses")
