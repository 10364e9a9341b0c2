"""Writes the matrix of engines into README.md, from the profiles and the features in `tests/engines.toml`.

python scripts/engine_matrix.py            writes it
python scripts/engine_matrix.py --check    says whether it is up to date
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from patient import patient  # noqa: E402 - found by the line above

from adapter_doctor.facts import Outlook, Serving  # noqa: E402
from adapter_doctor.knowledge.profiles import engines, profile  # noqa: E402

README = ROOT / "README.md"
START, END = "<!-- engines: written by scripts/engine_matrix.py -->", "<!-- end of engines -->"
SIGNS = {"served": "✓", "refused": "✗", "late": "fails late", "wrong": "**wrong**", "unknown": "?", "inapplicable": "–"}
OWN_FORMAT = {"mlx-lm", "ollama"}
"""Engines that refuse a folder as PEFT saves it; their column is about what `fix --for` would have to convert."""
SHOWN = tuple(one for one in engines() if one != "diffusers")


def cell(outlook: Outlook) -> str:
    """The sign for an outlook; ✓* where one number, which `--for` prints, is all that is needed."""
    effects = [one for one in outlook.effects if not (one.trait == "peft-folder" and outlook.engine in OWN_FORMAT)]
    knob = [one for one in effects if one.trait == "scaling" and one.fix.startswith("pass ")]
    rest = Outlook(outlook.engine, outlook.version, tuple(one for one in effects if one not in knob))
    return "✓*" if knob and rest.outcome == "served" else SIGNS[rest.outcome if not knob else "wrong"]


def table() -> str:
    """The matrix as Markdown."""
    head = [f"{name} {profile(name).read[-1]}" for name in SHOWN]
    lines = [f"| an adapter with | {' | '.join(head)} |", f"| --- |{' --- |' * len(head)}"]
    for feature in tomllib.loads((ROOT / "tests" / "engines.toml").read_text("utf-8"))["feature"]:
        changes = {name: change for name, change in feature.items() if name not in ("name", "expect")}
        serving = patient({"engines": list(SHOWN), **changes}).get(Serving)
        assert isinstance(serving, Serving)
        lines.append(f"| {feature['name']} | {' | '.join(map(cell, serving.outlooks))} |")
    return "\n".join(lines)


def text() -> str:
    """The whole README with the matrix of now."""
    before, _, rest = README.read_text("utf-8").partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{table()}\n\n{END}{after}"


def main() -> int:
    if "--check" not in sys.argv[1:]:
        README.write_text(text(), encoding="utf-8")
        return 0
    if README.read_text("utf-8") == text():
        return 0
    print("the matrix in README.md is out of date; run scripts/engine_matrix.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
