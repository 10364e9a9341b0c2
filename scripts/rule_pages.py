"""Writes `adapter_doctor/rules/README.md` from the rules and the first sick case of each.

python scripts/rule_pages.py            writes it
python scripts/rule_pages.py --check    says whether it is up to date
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from adapter_doctor.rules import Rule, all_rules  # noqa: E402 - found by the line above, installed or not
from adapter_doctor.rules.pages import page  # noqa: E402

PAGE = ROOT / "adapter_doctor" / "rules" / "README.md"
CASES = ROOT / "tests" / "rules"
WRITTEN_BY = "scripts/rule_pages.py"


def text() -> str:
    """The whole page."""
    rules = all_rules()
    rows = [
        f"| [{one.code}](#{one.code.lower()}-{one.name}) | {one.name} | {one.severity.label} | {one.title} |"
        for one in rules
    ]
    head = [
        f"<!-- Written by {WRITTEN_BY} from the rules and their cases; do not edit. -->",
        "",
        "# The rules",
        "",
        "| code | name | severity | what it finds |",
        "| --- | --- | --- | --- |",
        *rows,
    ]
    return "\n".join(head) + "\n\n" + "\n".join(page(rule, example(rule)) for rule in rules)


def example(rule: Rule[...]) -> str:
    """The first sick case's name and its messages, as Markdown; empty where the rule has none."""
    path = CASES / f"{rule.name}.toml"
    sick = tomllib.loads(path.read_text("utf-8")).get("sick", ()) if path.exists() else ()
    if not sick:
        return ""
    messages = "\n".join(f"    {rule.severity.label} {rule.code} {rule.name}: {message}" for message in sick[0]["says"])
    return f"{sick[0]['name'][0].upper()}{sick[0]['name'][1:]}:\n\n{messages}"


def main() -> int:
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text(), encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text("utf-8") == text():
        return 0
    print(f"{PAGE.relative_to(ROOT)} is out of date; run {WRITTEN_BY}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
