"""Writes `adapter_doctor/rules/README.md` from the rules and the first sick case of each, and their table in README.md.

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
README = ROOT / "README.md"
BEGIN, END = f"<!-- rules: written by {WRITTEN_BY} -->", "<!-- end of rules -->"
ASKED = {
    "reach": "can both be had", "config": "does the config say what PEFT reads", "tensors": "are the weights whole",
    "fit": "do they belong on this base", "environment": "can this environment load it", "load": "what the load showed",
    "upload": "may it be published (`upload`)", "serving": "will engines serve it (`--for`)",
    "resume": "can training go on (`resume`)",
}  # fmt: skip


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


def readme() -> str:
    """README.md with the table of now: the rules by family."""
    families: dict[tuple[str, str], list[str]] = {}
    for one in all_rules():
        name = one.check.__module__.split(".")[-2]
        link = f"[{one.name}](adapter_doctor/rules/README.md#{one.code.lower()}-{one.name})"
        families.setdefault((f"AD{one.code[2]}", name), []).append(link)
    rows = [
        f"| {code} {name} | {ASKED.get(name, '')} | {len(links)} | {', '.join(links)} |"
        for (code, name), links in families.items()
    ]
    head = ["| family | asks | rules | names |", "| --- | --- | --- | --- |"]
    before, _, rest = README.read_text("utf-8").partition(BEGIN)
    return "\n".join([before + BEGIN, "", *head, *rows, "", END]) + rest.partition(END)[2]


def main() -> int:
    pages = {PAGE: text(), README: readme()}
    if "--check" not in sys.argv[1:]:
        for path, wanted in pages.items():
            path.write_text(wanted, encoding="utf-8")
        return 0
    stale = [path for path, wanted in pages.items() if not path.exists() or path.read_text("utf-8") != wanted]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is out of date; run {WRITTEN_BY}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
