"""Writes `scripts/screenshot.svg`, the README's picture of a report in a terminal.

python scripts/screenshot.py            writes it
python scripts/screenshot.py --check    says whether it is up to date
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from patient import patient  # noqa: E402 - found by the line above, installed or not
from rich.console import Console  # noqa: E402
from rich.text import Text  # noqa: E402

from adapter_doctor.engine import judge  # noqa: E402
from adapter_doctor.render.text import render  # noqa: E402
from adapter_doctor.report import build  # noqa: E402
from adapter_doctor.rules import rules_of  # noqa: E402

PICTURE = ROOT / "scripts" / "screenshot.svg"
COMMAND = "adapter-doctor check models/tiny-llama adapters/mine"
# What torch.compile leaves in the names: PEFT loads such an adapter without an error.
CHANGES = {
    "tensors": {"rename": {r"^base_model\.model\.": "base_model.model._orig_mod."}},
    "config": {"base_model_name_or_path": "models/tiny-llama"},
    "folder": {"reference": "adapters/mine"},
    "base_folder": {"reference": "models/tiny-llama"},
    "waived": ["RunOutcome"],
}


def text() -> str:
    """The picture as SVG, with no font or style from elsewhere."""
    facts = patient(CHANGES)
    report = build(judge(rules_of(), facts), facts, "models/tiny-llama")
    console = Console(record=True, width=84, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(Text(f"$ {COMMAND}", "bold"))
    console.print(Text.from_ansi(render(report, colour=True)), end="")
    svg = console.export_svg(title="adapter-doctor", unique_id="adapter-doctor")
    return re.sub(r"(?s)@font-face \{.*?\}\s*", "", svg)


def main() -> int:
    if "--check" not in sys.argv[1:]:
        PICTURE.write_text(text(), encoding="utf-8")
        return 0
    if PICTURE.exists() and PICTURE.read_text("utf-8") == text():
        return 0
    print(f"{PICTURE.relative_to(ROOT)} is out of date; run scripts/screenshot.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
