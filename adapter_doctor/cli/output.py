"""Write a report where it was asked for, and errors of usage to stderr."""

from __future__ import annotations

import os
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import typer

from adapter_doctor.errors import DoctorError, os_error_sentence
from adapter_doctor.render.visible import visible
from adapter_doctor.report import Report

FORMATS = ("text", "json", "html", "sarif", "github", "junit", "markdown")


def write_report(report: Report, form: str, output: Path | None, verbose: bool) -> None:
    """The report in format ``form``, to ``output`` or stdout."""
    renderer = import_module(f"adapter_doctor.render.{form}")
    if form == "text":
        wide, coloured = (columns(), colours()) if output is None else (80, False)
        text = renderer.render(report, verbose=verbose, width=wide, colour=coloured)
    else:
        text = renderer.render(report)
    if form == "github":
        _summarise_job(report)
    if output is None:
        say(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        usage_error(DoctorError(f"{output} cannot be written: {os_error_sentence(error)}"))


def _summarise_job(report: Report) -> None:
    """Add the report to the page of the job, where GitHub Actions names a file for that."""
    place = os.environ.get("GITHUB_STEP_SUMMARY")
    if place:
        from adapter_doctor.render import markdown

        try:
            with Path(place).open("a", encoding="utf-8") as file:
                file.write(markdown.render(report) + "\n")
        except OSError as error:
            usage_error(DoctorError(f"the job summary {place} cannot be written: {os_error_sentence(error)}"))


def say(text: str) -> None:
    """``text`` on stdout. Where the reader has left, as `| head` does, the command ends as the shell expects it."""
    try:
        typer.echo(text, nl=False)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141) from None
    except OSError as error:
        usage_error(DoctorError(f"the output cannot be written: {os_error_sentence(error)}"))


def columns() -> int:
    """Width of the terminal; 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def colours() -> bool:
    """Whether stdout is a terminal whose user did not ask for plain text (NO_COLOR)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def usage_error(error: DoctorError) -> NoReturn:
    """Say what is wrong with the command, and exit with 2."""
    typer.echo(f"error: {visible(error.message)}", err=True)
    if error.hint:
        typer.echo(f"  try: {visible(error.hint)}", err=True)
    raise typer.Exit(2)


class Progress:
    """What goes on, on stderr, one line that is written over; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._shown = 0

    def __call__(self, text: str) -> None:
        """Show ``text`` in place of what was shown before."""
        if sys.stderr.isatty():
            line = visible(text, 100) + " …"
            typer.echo("\r" + line.ljust(self._shown), err=True, nl=False)
            self._shown = len(line)

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            typer.echo("\r" + " " * self._shown + "\r", err=True, nl=False)
            self._shown = 0
