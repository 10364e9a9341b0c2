"""The verification of a merge as text."""

from __future__ import annotations

import textwrap

from adapter_doctor.merged.verification import Verification
from adapter_doctor.render.visible import visible


def render(found: Verification, *, width: int = 80) -> str:
    """The verdict, then a sentence for each reason, at most ``width`` columns wide."""
    lines = [found.verdict.upper()]
    marks = (("✗", found.problems), ("?", found.doubts), ("·", found.notes))
    for mark, sentences in marks:
        for sentence in sentences:
            text = visible(sentence, 600)
            lines += textwrap.wrap(text, max(40, width), initial_indent=f"  {mark} ", subsequent_indent="    ", break_on_hyphens=False)  # fmt: skip
    return "\n".join(lines) + "\n"
