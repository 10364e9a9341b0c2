"""Read JSON that a stranger wrote: size, depth and encoding are bounded, and every failure says what is wrong."""

from __future__ import annotations

import json
from typing import Any

MAX_BYTES = 10_000_000
MAX_DEPTH = 100


class BadJson(ValueError):
    """The text is not JSON that may be used; the message is a clause for a person."""


def parse_object(data: bytes, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in ``data``.

    ``NaN`` and ``Infinity`` are let through as Python does, because PEFT reads them too; rules look at the values.

    Raises:
        BadJson: too large, not UTF-8, a byte order mark, not JSON, nested too deeply, or not an object.
    """
    if len(data) > max_bytes:
        raise BadJson(f"is {len(data):,} bytes, more than the {max_bytes:,} that are read")
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise BadJson("begins with a byte order mark, which PEFT's JSON reader refuses; save it as UTF-8 without BOM")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadJson(f"is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}") from None
    if not text.strip():
        raise BadJson("is empty")
    if _depth(text) > MAX_DEPTH:
        raise BadJson(f"is nested more than {MAX_DEPTH} levels deep")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadJson(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except (RecursionError, ValueError) as error:  # ValueError: an integer of more than 4,300 digits
        raise BadJson(f"cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise BadJson(f"holds a JSON {_kind(value)}, not an object")
    return value


def _depth(text: str) -> int:
    """Deepest nesting, counted outside strings, without recursion; counting stops just beyond the limit."""
    depth = deepest = 0
    inside = escaped = False
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return 0
    for sign in text:
        if inside:
            if escaped:
                escaped = False
            elif sign == "\\":
                escaped = True
            elif sign == '"':
                inside = False
        elif sign == '"':
            inside = True
        elif sign in "{[":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                break
        elif sign in "}]":
            depth -= 1
    return deepest


def _kind(value: object) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
