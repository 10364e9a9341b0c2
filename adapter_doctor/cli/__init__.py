"""The command line: one file a command. Only this package prints or exits."""

from __future__ import annotations

import io
import sys

import typer

from adapter_doctor.cli.check import check
from adapter_doctor.cli.commands import Commands
from adapter_doctor.cli.explain import explain
from adapter_doctor.cli.fix import fix
from adapter_doctor.cli.hook import hook
from adapter_doctor.cli.inspect import inspect
from adapter_doctor.cli.resume import resume
from adapter_doctor.cli.rules import rules
from adapter_doctor.cli.upload import upload
from adapter_doctor.cli.verify_merge import verify_merge

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
app.command()(check)
app.command()(fix)
app.command("verify-merge")(verify_merge)
app.command()(inspect)
app.command()(upload)
app.command()(hook)
app.command()(resume)
app.command()(rules)
app.command()(explain)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Show the version and exit.", is_eager=True)) -> None:
    if version:
        from adapter_doctor import __version__

        typer.echo(f"adapter-doctor {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line. What the terminal's encoding cannot show is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()
