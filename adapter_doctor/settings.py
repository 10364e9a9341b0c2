"""What a project has settled for its checks: a TOML file or `[tool.adapter-doctor]` of pyproject.toml, and a baseline."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from adapter_doctor.errors import DoctorError, os_error_sentence
from adapter_doctor.formats.bounded_json import BadJson, parse_object
from adapter_doctor.suppression import Known

TABLE = "adapter-doctor"
CHOICES = {"load": ("skeleton", "full", "no"), "fail-on": ("error", "warning")}
_KEYS = (*CHOICES, "select", "ignore")
_MOST = 1_000_000


@dataclass(frozen=True)
class Settings:
    """Options that the command line leaves open; empty and None where nothing is settled.

    ``ignore`` maps rules' codes, or beginnings of them, to reasons. ``overrides`` are for adapters whose reference fits
    a pattern: a later one wins, and what each ignores is added.
    """

    load: str | None = None
    fail_on: str | None = None
    select: tuple[str, ...] = ()
    ignore: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[tuple[str, Settings], ...] = ()

    def of(self, adapter: str) -> Settings:
        """What holds for this adapter."""
        name = adapter.replace("\\", "/").removeprefix("./").rstrip("/")
        found = Settings(self.load, self.fail_on, self.select, self.ignore)
        for pattern, own in self.overrides:
            if fnmatchcase(name, pattern):
                found = Settings(
                    own.load or found.load,
                    own.fail_on or found.fail_on,
                    own.select or found.select,
                    {**found.ignore, **own.ignore},
                )
        return found


def project_settings(folder: Path) -> Settings:
    """The settings in the nearest pyproject.toml, from ``folder`` upwards; empty ones where it has no table for us.

    Raises:
        DoctorError: the table holds what it cannot hold.
    """
    for place in (folder, *folder.parents):
        path = place / "pyproject.toml"
        if path.is_file():
            try:
                whole = tomllib.loads(path.read_text("utf-8"))
            except (OSError, ValueError):  # another tool's business until it has a table for us
                return Settings()
            tools = whole.get("tool")
            table = tools.get(TABLE) if isinstance(tools, dict) else None
            return Settings() if table is None else _settings(table, str(path))
    return Settings()


def read_settings(path: Path) -> Settings:
    """The settings in a file: its own keys, or those of its table `[tool.adapter-doctor]`.

    Raises:
        DoctorError: there is no such file, it is no TOML, or it holds what it cannot hold.
    """
    try:
        if path.stat().st_size > _MOST:
            raise DoctorError(f"{path} is {path.stat().st_size:,} bytes, more than the {_MOST:,} that are read")
        whole = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DoctorError(f"the settings {path} cannot be read: {os_error_sentence(error)}") from None
    except ValueError as error:
        raise DoctorError(f"the settings {path} are no TOML: {error}") from None
    tools = whole.get("tool")
    return _settings(tools[TABLE] if isinstance(tools, dict) and TABLE in tools else whole, str(path))


def _settings(table: Any, place: str, *, inner: bool = False) -> Settings:
    if not isinstance(table, dict):
        raise DoctorError(f"{place}: `{TABLE}` is no table")
    known = (*_KEYS, "path") if inner else (*_KEYS, "overrides")
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise DoctorError(
                f"{place}: there is no setting {key!r}", near[0] if near else f"one of {', '.join(known)}"
            )
    for key, allowed in CHOICES.items():
        if key in table and table[key] not in allowed:
            raise DoctorError(f"{place}: {key} is {table[key]!r}", f"{key} = {' | '.join(map(repr, allowed))}")
    select, ignore, overrides = table.get("select", []), table.get("ignore", {}), table.get("overrides", [])
    if not isinstance(select, list) or not all(isinstance(one, str) for one in select):
        raise DoctorError(f"{place}: select is {select!r}, expected a list of codes", 'select = ["AD1", "AD211"]')
    if not isinstance(ignore, dict) or not all(isinstance(why, str) and why.strip() for why in ignore.values()):
        raise DoctorError(
            f"{place}: ignore is {ignore!r}, expected codes with a reason each", 'ignore = { AD315 = "why" }'
        )
    if not isinstance(overrides, list) or not all(isinstance(one, dict) for one in overrides):
        raise DoctorError(f"{place}: overrides are no list of tables", '[[overrides]] and path = "adapters/old-*"')
    for one in overrides:
        if not isinstance(one.get("path"), str):
            raise DoctorError(f"{place}: an override says no path", 'path = "adapters/old-*"')
    further = tuple((one["path"], _settings(one, f"{place}: overrides", inner=True)) for one in overrides)
    return Settings(table.get("load"), table.get("fail-on"), tuple(select), ignore, further)


def read_baseline(path: Path) -> Known:
    """The hits of an earlier report, as `--format json --output FILE` writes it.

    Raises:
        DoctorError: there is no such file, or it is no report.
    """
    try:
        report = parse_object(path.read_bytes())
        if report.get("schema") != 1:
            raise BadJson("is no report with schema 1")
        return frozenset(_hits(report["findings"])) | frozenset(
            hit for one in report.get("suppressed", ()) for hit in _hits(one["hits"])
        )
    except OSError as error:
        raise DoctorError(f"the baseline {path} cannot be read: {os_error_sentence(error)}") from None
    except (BadJson, KeyError, TypeError) as error:
        why = str(error) if isinstance(error, BadJson) else "is no report of this tool"
        hint = "adapter-doctor check … --format json --output FILE"
        raise DoctorError(f"the baseline {path} {why}", hint) from None


def _hits(entries: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str, str]]:
    return ((str(one["code"]), str(one["where"] or ""), str(one["message"])) for one in entries)
