"""`adapter-doctor fix`: write a mended copy of an adapter, and prove it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from adapter_doctor.cli.output import Progress, colours, columns, say, usage_error
from adapter_doctor.errors import DoctorError


def fix(
    base: Annotated[str, typer.Argument(help="The base model; leave it out to take the one the adapter names.")],
    adapter: Annotated[str | None, typer.Argument(help="The adapter: a folder, or its id on the Hub.")] = None,
    output: Annotated[Path | None, typer.Option(help="The folder to write the mended copy to; it must be new.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    for_peft: Annotated[str | None, typer.Option(help="Write a config that this PEFT release can read.")] = None,
    for_engine: Annotated[
        str | None, typer.Option("--for", help="Write what this engine honours, in its own format if need be.")
    ] = None,
    drop_rows: Annotated[
        bool, typer.Option("--drop-rows", help="Lossy: cut embeddings to the base's vocabulary; added tokens are lost.")
    ] = False,
    drop_layers: Annotated[
        bool, typer.Option("--drop-layers", help="Lossy: drop the tensors of layers that the base does not have.")
    ] = False,
    zero_nan: Annotated[
        bool, typer.Option("--zero-nan", help="Lossy: put zero for NaN and infinity; those values are lost.")
    ] = False,
    form: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
    model_class: Annotated[str | None, typer.Option(help="The transformers class to load the base as.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the base's repository.")
    ] = False,
    time_limit: Annotated[float, typer.Option(help="Seconds that each load, and the network, may take.")] = 600.0,
    python: Annotated[str | None, typer.Option(help="Load with this environment's interpreter.")] = None,
    base_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the base.")] = None,
    adapter_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the adapter.")] = None,
    subfolder: Annotated[str | None, typer.Option(help="The adapter's folder inside its repository.")] = None,
    token: Annotated[str | None, typer.Option(help="Hub token; else the one `hf auth login` saved.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this disk.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor write kept module trees.")] = False,
) -> None:
    """Write a mended copy of ADAPTER that works on BASE, and prove it by loading the copy. The original is not touched."""
    from adapter_doctor.fixing import fix

    signal.signal(signal.SIGTERM, _interrupted)  # so that a half-written copy is taken away
    progress = Progress()
    lossy = {"rows": drop_rows, "layers": drop_layers, "nan": zero_nan}
    try:
        if form not in ("text", "json"):
            raise DoctorError(f"--format is {form!r}", "--format text | json")
        repair = fix(
            base if adapter is not None else None,
            adapter if adapter is not None else base,
            output,
            dry_run=dry_run,
            for_peft=for_peft,
            for_engine=for_engine,
            losing=tuple(name for name, wanted in lossy.items() if wanted),
            model_class=model_class,
            trust_remote_code=trust_remote_code,
            time_limit=time_limit,
            python=python,
            cache=not no_cache,
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
    if form == "json":
        say(json.dumps(repair.to_dict(), indent=2, allow_nan=False, default=str) + "\n")
    else:
        from adapter_doctor.render.repair import render

        say(render(repair, width=columns(), colour=colours()))
    raise typer.Exit(repair.exit_code)


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
