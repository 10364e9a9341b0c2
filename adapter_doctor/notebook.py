"""In a notebook: progress below the cell, and a report in place of a traceback."""

from __future__ import annotations

import functools
import html
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")


def in_cell() -> bool:
    """Whether this code runs in a kernel, so that a front end shows what it displays (Jupyter, VS Code, Colab)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


def told_in_cell(function: Callable[P, Result]) -> Callable[P, Result]:
    """Let a function with the option ``progress`` tell it below the cell, if it is called in one and told nothing else."""

    @functools.wraps(function)
    def told(*arguments: P.args, **options: P.kwargs) -> Result:
        if options.get("progress") is not None or not in_cell():
            return function(*arguments, **options)
        line = _Line()
        options["progress"] = line
        try:
            return function(*arguments, **options)
        finally:
            line.clear()

    return told


class _Line:
    """A line of output that is written over, and gone in the end."""

    def __init__(self) -> None:
        self._handle: Any = None

    def __call__(self, text: str) -> None:
        """Show ``text`` in place of what was shown before."""
        self._show(f"<em>{html.escape(text[:200])} …</em>", f"{text[:200]} …")

    def clear(self) -> None:
        """Empty the line."""
        if self._handle is not None:
            self._show("", "")

    def _show(self, shown: str, plain: str) -> None:
        from IPython.display import display

        bundle = {"text/html": shown, "text/plain": plain}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def instead_of_traceback(report: Any, summary: str) -> list[str]:
    """What IPython prints for an error that is a report: in a cell the report is displayed, and only a line printed."""
    if not in_cell():
        return str(report).splitlines()
    from IPython.display import display

    display(report)
    return [f"AdapterError: {summary}"]
