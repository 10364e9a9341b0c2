"""`adapter-doctor verify-merge`: does a merged model contain the adapter."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from adapter_doctor.cli.output import Progress, columns, say, usage_error
from adapter_doctor.errors import DoctorError


def verify_merge(
    base: Annotated[str, typer.Argument(help="The base model: a folder, or its id on the Hub.")],
    adapter: Annotated[str, typer.Argument(help="The adapter that was merged into it.")],
    merged: Annotated[str, typer.Argument(help="The merged model.")],
    form: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
    token: Annotated[str | None, typer.Option(help="Hub token; else the one `hf auth login` saved.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this disk.")] = False,
) -> None:
    """Prove that MERGED is BASE with ADAPTER in it: every tensor is read, block by block, and held against the base's."""
    from adapter_doctor.doctor import verify_merge

    progress = Progress()
    try:
        if form not in ("text", "json"):
            raise DoctorError(f"--format is {form!r}", "--format text | json")
        found = verify_merge(base, adapter, merged, token=token, offline=offline, progress=progress)
    except DoctorError as error:
        progress.clear()
        usage_error(error)
    progress.clear()
    if form == "json":
        say(json.dumps(found.to_dict(), indent=2) + "\n")
    else:
        from adapter_doctor.render.merged import render

        say(render(found, width=columns()))
    raise typer.Exit(found.exit_code)
