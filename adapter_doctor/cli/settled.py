"""Options of the command line over those of the project's settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from adapter_doctor.errors import DoctorError
from adapter_doctor.settings import CHOICES, Settings, project_settings, read_settings


def settled(
    adapter: str,
    config: Path | None,
    load: str | None,
    fail_on: str | None,
    select: list[str] | None,
    ignore: list[str] | None,
) -> Settings:
    """What holds for this adapter: the command line wins, and what it ignores is added.

    Raises:
        DoctorError: an option or a setting has a value that it cannot have.
    """
    for name, value in (("load", load), ("fail-on", fail_on)):
        if value is not None and value not in CHOICES[name]:
            raise DoctorError(f"--{name} is {value!r}", f"--{name} {' | '.join(CHOICES[name])}")
    here = Path.cwd()
    if Path(adapter).is_relative_to(here):
        adapter = str(Path(adapter).relative_to(here))
    own = (project_settings(here) if config is None else read_settings(config)).of(adapter)
    return replace(
        own,
        load=load or own.load or "skeleton",
        fail_on=fail_on or own.fail_on or "error",
        select=tuple(select or own.select),
        ignore={**own.ignore, **dict.fromkeys(ignore or (), "at your request (--ignore)")},
    )
