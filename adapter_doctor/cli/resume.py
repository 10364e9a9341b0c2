"""`adapter-doctor resume`: can training go on from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapter_doctor.cli.output import FORMATS, Progress, usage_error, write_report
from adapter_doctor.cli.settled import settled
from adapter_doctor.errors import DoctorError
from adapter_doctor.findings import Severity


def resume(
    base: Annotated[str, typer.Argument(help="The base model; leave it out to take the one the adapter names.")],
    checkpoint: Annotated[
        str | None, typer.Argument(help="A checkpoint-N folder, an output folder with several, or a file of torch's.")
    ] = None,
    load: Annotated[str | None, typer.Option(help="How far to go: skeleton (if not said), full or no.")] = None,
    optim: Annotated[str | None, typer.Option(help="The optimizer to go on with, as in TrainingArguments.")] = None,
    world_size: Annotated[int | None, typer.Option(help="Number of processes to go on with.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Batch size per device to go on with.")] = None,
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "text",
    output: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="Only rules whose code begins so; compatible is then not said. Repeatable.")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Not rules whose code begins so. Repeatable.")] = None,
    fail_on: Annotated[str | None, typer.Option(help="Exit with 1 on: error (if not said) or warning.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings; else [tool.adapter-doctor] of pyproject.toml.")] = None,
    model_class: Annotated[str | None, typer.Option(help="The transformers class to load the base as.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the base's repository.")
    ] = False,
    no_values: Annotated[bool, typer.Option("--no-values", help="Do not read the values of tensors.")] = False,
    time_limit: Annotated[float, typer.Option(help="Seconds that the load, and the network, may take.")] = 600.0,
    python: Annotated[str | None, typer.Option(help="Load with this environment's interpreter.")] = None,
    base_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the base.")] = None,
    checkpoint_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the checkpoint.")] = None,
    token: Annotated[str | None, typer.Option(help="Hub token; else the one `hf auth login` saved.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this disk.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor write kept module trees.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every finding in full.")] = False,
) -> None:
    """Check whether training can go on from CHECKPOINT: its files, and the optimizer's state against what trains."""
    from adapter_doctor.resumption import resume

    progress = Progress()
    try:
        if form not in FORMATS:
            raise DoctorError(f"--format is {form!r}", f"--format {' | '.join(FORMATS)}")
        own = settled(checkpoint if checkpoint is not None else base, config, load, fail_on, select, ignore)
        report = resume(
            base if checkpoint is not None else None,
            checkpoint if checkpoint is not None else base,
            load=own.load,  # type: ignore[arg-type]  # settled() has checked it
            optim=optim,
            world_size=world_size,
            batch_size=batch_size,
            select=own.select,
            ignore=own.ignore,
            model_class=model_class,
            trust_remote_code=trust_remote_code,
            values=not no_values,
            time_limit=time_limit,
            python=python,
            cache=not no_cache,
            base_revision=base_revision,
            checkpoint_revision=checkpoint_revision,
            token=token,
            offline=offline,
            progress=progress,
        )
    except DoctorError as error:
        progress.clear()
        usage_error(error)
    progress.clear()
    write_report(report, form, output, verbose)
    warned = any(one.rule.severity >= Severity.WARNING for one in report.findings)
    raise typer.Exit(1 if report.exit_code == 0 and warned and own.fail_on == "warning" else report.exit_code)
