"""The commands together: where the first word is none of them, say which was meant."""

from __future__ import annotations

import difflib
import re
import shlex
from pathlib import Path
from typing import Any

import typer.core

from adapter_doctor.cli.output import usage_error
from adapter_doctor.errors import DoctorError


class Commands(typer.core.TyperGroup):
    """A group of commands that answers a word that is none with the command to type."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments begin with."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            usage_error(DoctorError(f"there is no command {args[0]!r}", self._meant(args)))
        return super().resolve_command(ctx, args)

    def _meant(self, args: list[str]) -> str:
        first = args[0]
        near = difflib.get_close_matches(first, self.commands, 1, 0.6)
        if near:
            return shlex.join(["adapter-doctor", near[0], *args[1:]])
        if re.fullmatch(r"(?i)ad\d{3}", first):
            return f"adapter-doctor explain {first.upper()}"
        if "/" in first or Path(first).exists():
            command = "check" if len(args) > 1 else "inspect"
            return shlex.join(["adapter-doctor", command, *args])
        return "adapter-doctor --help"
