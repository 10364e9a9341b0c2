"""Show the diagnosis under a traceback, in a script (`with explaining():`) and in IPython or Jupyter (`%load_ext`).

Neither hides nor replaces the exception. In a script the diagnosis is a note on it (PEP 678), which Python, logging and
pytest print beneath the traceback; in IPython it is shown once the cell has shown its own. What fails in here is
swallowed: a diagnosis must not be a second failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from adapter_doctor.report import Report


@contextmanager
def explaining() -> Iterator[None]:
    """Explain what is raised inside, where it is recognised, in a note under its traceback."""
    try:
        yield
    except Exception as error:
        with suppress(Exception):
            report = _recognised(error)
            if report is not None:
                error.add_note(f"\nadapter-doctor:\n{report}")
        raise


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext adapter_doctor` calls: explain each cell's exception under its traceback."""
    shell.events.register("post_run_cell", _show)


def unload_ipython_extension(shell: Any) -> None:
    """What `%unload_ext adapter_doctor` calls."""
    with suppress(ValueError):  # it was not loaded
        shell.events.unregister("post_run_cell", _show)


def _show(result: Any) -> None:
    with suppress(Exception):
        error = result.error_in_exec
        report = _recognised(error) if isinstance(error, Exception) else None
        if report is not None:
            from IPython.display import display

            display(report)  # type: ignore[no-untyped-call, unused-ignore]


def _recognised(error: Exception) -> Report | None:
    from adapter_doctor.explanation import explain

    report = explain(error)
    return report if report.findings else None
