"""`adapter-doctor check`: does the adapter work on the base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapter_doctor.cli.output import FORMATS, Progress, usage_error, write_report
from adapter_doctor.cli.settled import settled
from adapter_doctor.errors import DoctorError
from adapter_doctor.findings import Severity
from adapter_doctor.settings import read_baseline


def check(
    base: Annotated[str, typer.Argument(help="The base model; leave it out to take the one the adapter names.")],
    adapter: Annotated[str | None, typer.Argument(help="The adapter: a folder, or its id on the Hub.")] = None,
    load: Annotated[str | None, typer.Option(help="How far to go: skeleton (if not said), full or no.")] = None,
    run: Annotated[bool, typer.Option("--run", help="Also a forward pass with and without the adapter.")] = False,
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "text",
    output: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="Only rules whose code begins so; compatible is then not said. Repeatable.")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Not rules whose code begins so. Repeatable.")] = None,
    fail_on: Annotated[str | None, typer.Option(help="Exit with 1 on: error (if not said) or warning.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings; else [tool.adapter-doctor] of pyproject.toml.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="An earlier JSON report: what it found does not count.")] = None,
    model_class: Annotated[str | None, typer.Option(help="The transformers class to load the base as.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the base's repository.")
    ] = False,
    no_values: Annotated[bool, typer.Option("--no-values", help="Do not read the values of tensors.")] = False,
    time_limit: Annotated[float, typer.Option(help="Seconds that the load, and the network, may take.")] = 600.0,
    python: Annotated[str | None, typer.Option(help="Load with this environment's interpreter.")] = None,
    base_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the base.")] = None,
    adapter_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the adapter.")] = None,
    subfolder: Annotated[str | None, typer.Option(help="The adapter's folder inside its repository.")] = None,
    token: Annotated[str | None, typer.Option(help="Hub token; else the one `hf auth login` saved.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this disk.")] = False,
    engines: Annotated[
        list[str] | None,
        typer.Option("--for", help="An engine to serve it with, as NAME or NAME@VERSION; all. Repeatable."),
    ] = None,
    beside: Annotated[list[str] | None, typer.Option("--with", help="An adapter served beside it. Repeatable.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor write kept module trees.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every finding in full.")] = False,
) -> None:
    """Check whether ADAPTER works on BASE: files, config, tensors and fit, then the load through PEFT."""
    from adapter_doctor.doctor import check

    progress = Progress()
    try:
        if form not in FORMATS:
            raise DoctorError(f"--format is {form!r}", f"--format {' | '.join(FORMATS)}")
        own = settled(adapter if adapter is not None else base, config, load, fail_on, select, ignore)
        report = check(
            base if adapter is not None else None,
            adapter if adapter is not None else base,
            load=own.load,  # type: ignore[arg-type]  # settled() has checked it
            run=run,
            select=own.select,
            ignore=own.ignore,
            baseline=read_baseline(baseline) if baseline is not None else frozenset(),
            model_class=model_class,
            trust_remote_code=trust_remote_code,
            values=not no_values,
            time_limit=time_limit,
            python=python,
            cache=not no_cache,
            base_revision=base_revision,
            adapter_revision=adapter_revision,
            subfolder=subfolder,
            token=token,
            offline=offline,
            engines=engines or (),
            beside=beside or (),
            norms=form == "html",
            progress=progress,
        )
    except DoctorError as error:
        progress.clear()
        usage_error(error)
    progress.clear()
    write_report(report, form, output, verbose)
    warned = any(one.rule.severity >= Severity.WARNING for one in report.findings)
    raise typer.Exit(1 if report.exit_code == 0 and warned and own.fail_on == "warning" else report.exit_code)
