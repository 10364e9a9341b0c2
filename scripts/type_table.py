"""Writes the README's table of PEFT types: a healthy adapter of each and three hurt ones, as they are judged.

    python scripts/type_table.py

`tests/test_agreement.py` measures every row again.
"""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import peft_types

from adapter_doctor.loading.process import LoadingChild

ROOT = Path(__file__).resolve().parent.parent
HEAD = "| `peft_type` | healthy | a tensor dropped | a tensor renamed | a tensor misshapen |\n| --- | --- | --- | --- | --- |"
BEGIN, END = "<!-- types: written by scripts/type_table.py -->", "<!-- end of types -->"


def main() -> None:
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as name, LoadingChild() as child:
        base = peft_types.make_base(Path(name) / "base")
        for kind in peft_types.KINDS:
            rows.append(peft_types.row(kind, peft_types.reports(kind, base, child, Path(name) / kind)))
            print(rows[-1], flush=True)
    readme = ROOT / "README.md"
    table = "\n".join([BEGIN, "", HEAD, *rows, "", END])
    text, count = re.subn(f"{BEGIN}.*?{END}", lambda _: table, readme.read_text("utf-8"), flags=re.DOTALL)
    if not count:
        raise SystemExit(f"README.md has no place for the table: {BEGIN} … {END}")
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
