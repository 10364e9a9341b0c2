"""`adapter-doctor explain`: a rule's page, or what a pasted traceback or a log says went wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from adapter_doctor.cli.output import FORMATS, Progress, say, usage_error, write_report
from adapter_doctor.errors import DoctorError
from adapter_doctor.report import Report
from adapter_doctor.rules import all_rules
from adapter_doctor.rules.pages import page


def explain(
    what: Annotated[
        str, typer.Argument(help="A rule's code or name; or a file with a traceback or log, or - for what is piped in.")
    ],
    base: Annotated[str | None, typer.Option(help="Examine this base too: do the files bear the text out?")] = None,
    adapter: Annotated[str | None, typer.Option(help="Examine this adapter too.")] = None,
    load: Annotated[str, typer.Option(help="How far to examine them: skeleton, full or no.")] = "skeleton",
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "text",
    output: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this disk.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every finding in full.")] = False,
) -> None:
    """Say what a traceback, a log or a notebook means: cause and cure; or show a rule's page."""
    for rule in all_rules():
        if what.upper() == rule.code or what.lower() == rule.name:
            say(page(rule))
            return
    progress = Progress()
    try:
        if form not in FORMATS:
            raise DoctorError(f"--format is {form!r}", f"--format {' | '.join(FORMATS)}")
        options: dict[str, Any] = {"base": base, "adapter": adapter}
        if adapter is not None:
            options |= {"load": load, "offline": offline, "progress": progress}
        report = _explained(what, options)
    except DoctorError as error:
        progress.clear()
        usage_error(error)
    progress.clear()
    write_report(report, form, output, verbose)
    raise typer.Exit(report.exit_code)


def _explained(what: str, options: dict[str, Any]) -> Report:
    """The report on stdin, a file, or the words themselves where they are a message and no file's name.

    Raises:
        DoctorError: it is none of these.
    """
    from adapter_doctor import explanation
    from adapter_doctor.texts import reading

    if what == "-":
        return explanation.explain_text(reading.read(sys.stdin.buffer), "standard input", **options)
    if what and "\n" not in what and len(what) < 1000 and Path(what).exists():
        return explanation.explain_file(Path(what), **options)
    if len(what.split()) > 2 and any(word in what for word in ("Error", "Warning", "Exception", "mismatch")):
        return explanation.explain(what, **options)
    import difflib

    known = [rule.code for rule in all_rules()] + [rule.name for rule in all_rules()]
    near = difflib.get_close_matches(what, known, 1, 0.5)
    hint = f"adapter-doctor explain {near[0]}" if near else "adapter-doctor rules, or explain FILE"
    raise DoctorError(f"{what!r} is neither a rule nor a file", hint)
