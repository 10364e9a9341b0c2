"""`adapter-doctor hook`: check the adapter folders that these files lie in, as a commit hook does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapter_doctor.cli.output import say, usage_error
from adapter_doctor.cli.settled import settled
from adapter_doctor.errors import DoctorError
from adapter_doctor.findings import Severity
from adapter_doctor.render.visible import visible

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def hook(
    files: Annotated[list[Path], typer.Argument(help="Files of adapters, or their folders.")],
    base: Annotated[str | None, typer.Option(help="The base of all of them; else the one that each names.")] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="Only rules whose code begins so; compatible is then not said. Repeatable.")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Not rules whose code begins so. Repeatable.")] = None,
    fail_on: Annotated[str | None, typer.Option(help="Exit with 1 on: error (if not said) or warning.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings; else [tool.adapter-doctor] of pyproject.toml.")] = None,
    online: Annotated[bool, typer.Option("--online", help="Look for bases on the Hub too.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 where something could not be told.")] = False,
) -> None:
    """Check the adapter folders that FILES lie in, from files alone: no torch, and no network unless --online.

    A commit does not have to bring its base along: what cannot be told without it is said, and is no failure unless
    --strict. Settings hold as for `check`, except for how far to go.
    """
    from adapter_doctor.doctor import check

    worst = 0
    try:
        folders = sorted({place for file in files if (place := _folder(file)) is not None})
        for folder in folders:
            own = settled(str(folder), config, "no", fail_on, select, ignore)
            report = check(
                base, folder, load="no", select=own.select, ignore=own.ignore, offline=not online, norms=False
            )
            warned = own.fail_on == "warning" and any(one.rule.severity >= Severity.WARNING for one in report.findings)
            if report.verdict == "undetermined" and not strict and not warned:
                say(visible(f"{folder}: {report.summary}", 300) + "\n")
            elif report.verdict != "compatible" or warned:
                say(f"{report}\n")
                worst = 1 if report.exit_code != 3 or warned or worst == 1 else 3
    except DoctorError as error:
        usage_error(error)
    raise typer.Exit(worst)


def _folder(file: Path) -> Path | None:
    """The adapter's folder that a file lies in, or that it is; None where there is none, as after a removal."""
    place = file if file.is_dir() else file.parent
    return place if any((place / name).is_file() for name in (_CONFIG, *_WEIGHTS)) else None
