"""What became of a repair: the examinations before and after it, and the plan between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adapter_doctor.repair.plan import Draft
from adapter_doctor.report import Report

State = Literal["healthy", "mended", "planned", "refused"]


@dataclass(frozen=True)
class Repair:
    """What became of a repair.

    ``state``: ``healthy`` (nothing to mend), ``mended`` (the copy is at ``output``), ``planned`` (a dry run) or
    ``refused`` (``why`` says the reason; nothing was written). ``before`` is the examination of the original, ``after``
    that of the copy. ``advice`` says where the weights may be that are not in the file.
    """

    state: State
    before: Report
    after: Report | None = None
    draft: Draft | None = None
    output: Path | None = None
    why: str = ""
    advice: tuple[str, ...] = ()
    landed: Mapping[str, int] | None = None

    @property
    def exit_code(self) -> int:
        """0 where the adapter works now or would, 1 where it does not, 3 where that could not be told."""
        if self.state == "refused":
            return 3 if self.before.verdict == "undetermined" else 1
        if self.state == "planned":
            if self.landed is None:
                return 3
            return 0 if self.landed["landed"] == self.landed["in_file"] and not self.landed["left_at_init"] else 1
        return (self.after or self.before).exit_code

    def to_dict(self) -> dict[str, Any]:
        """The repair as JSON-ready data, schema 1."""
        from adapter_doctor.render.repair import to_dict

        return to_dict(self)

    def __str__(self) -> str:
        from adapter_doctor.render.repair import render

        return render(self)
