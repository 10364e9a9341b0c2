"""The command line: one file a command. Only this package prints or exits."""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import typer

from adapter_doctor.cli.commands import Commands

COMMANDS = ("check", "fix", "verify-merge", "inspect", "upload", "hook", "resume", "rules", "explain")


def application(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The command line with these commands: to read the options of all nine costs more than a small check."""
    app = typer.Typer(
        name="adapter-doctor",
        cls=Commands,
        help="Does this PEFT/LoRA adapter work on this base model, and if not, what is wrong and how is it mended?",
        epilog="Exit codes: 0 compatible, 1 incompatible, 2 wrong usage, 3 undetermined.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in names:
        function = name.replace("-", "_")
        app.command(name)(getattr(importlib.import_module(f"adapter_doctor.cli.{function}"), function))
    app.callback(invoke_without_command=True)(_root)
    return app


def _root(version: bool = typer.Option(False, "--version", help="Show the version and exit.", is_eager=True)) -> None:
    if version:
        from adapter_doctor import __version__

        typer.echo(f"adapter-doctor {__version__}")
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line. What the terminal's encoding cannot show is written as an escape."""
    sys.stdin = sys.stdin or Path(os.devnull).open()  # noqa: SIM115
    sys.stdout, sys.stderr = (stream or Path(os.devnull).open("w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    gc.set_threshold(100_000, 50, 50)  # a run keeps nearly all that it reads: looking for what to free finds nothing
    named = sys.argv[1:2]
    try:
        application(named if named and named[0] in COMMANDS else COMMANDS)()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    else:
        code = 0
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End at once: to take every module and object apart first is a tenth of a small check, and changes nothing."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads any more
            stream.flush()
    os._exit(code)
