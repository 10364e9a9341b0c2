"""Make a stranger's text safe to print: control characters, escapes and direction marks become visible."""

from __future__ import annotations


def visible(text: str, limit: int = 2000) -> str:
    """``text`` with everything that could move a terminal or hide itself written as an escape; newlines are kept."""
    shown = "".join(sign if sign.isprintable() or sign == "\n" else _escape(sign) for sign in text[:limit])
    return shown + "…" if len(text) > limit else shown


def _escape(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
