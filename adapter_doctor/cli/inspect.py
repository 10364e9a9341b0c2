"""`adapter-doctor inspect`: what the adapter is, which base it was made for, and whether it can be merged."""

from __future__ import annotations

from typing import Annotated

import typer

from adapter_doctor.cli.output import Progress, columns, say, usage_error
from adapter_doctor.errors import DoctorError


def inspect(
    base: Annotated[str, typer.Argument(help="The base to merge into; leave it out to inspect the adapter alone.")],
    adapter: Annotated[str | None, typer.Argument(help="The adapter: a folder, or its id on the Hub.")] = None,
    form: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
    time_limit: Annotated[float, typer.Option(help="Seconds that the network may take.")] = 600.0,
    base_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the base.")] = None,
    adapter_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the adapter.")] = None,
    subfolder: Annotated[str | None, typer.Option(help="The adapter's folder inside its repository.")] = None,
    token: Annotated[str | None, typer.Option(help="Hub token; else the one `hf auth login` saved.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this disk.")] = False,
) -> None:
    """Say what ADAPTER is: the bases it fits, its scaling, and with BASE whether merging will be right."""
    from adapter_doctor.doctor import inspect
    from adapter_doctor.render import inspection

    progress = Progress()
    try:
        if form not in ("text", "json"):
            raise DoctorError(f"--format is {form!r}", "--format text | json")
        found = inspect(
            adapter if adapter is not None else base,
            base if adapter is not None else None,
            time_limit=time_limit,
            base_revision=base_revision,
            adapter_revision=adapter_revision,
            subfolder=subfolder,
            token=token,
            offline=offline,
            progress=progress,
        )
    except DoctorError as error:
        progress.clear()
        usage_error(error)
    progress.clear()
    say(inspection.render_json(found) if form == "json" else inspection.render(found, width=columns()))
    raise typer.Exit(found.exit_code)
