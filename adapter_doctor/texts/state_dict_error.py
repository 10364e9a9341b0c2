"""Parse what `torch.nn.Module.load_state_dict` raises: its missing and unexpected keys and its size mismatches, all.

The message is `Error(s) in loading state_dict for CLASS:` and then, each behind a tab, `Missing key(s) in state_dict: "a",
"b".`, `Unexpected key(s) in state_dict: …` (torch/nn/modules/module.py, `load_state_dict`) and one `size mismatch for …`
for each parameter (`_load_from_state_dict`). transformers and PEFT pass it on. Parsing works on squeezed text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from adapter_doctor.facts import Clash, Shape

MOST_KEYS = 200_000

_PARTS = re.compile(
    r"Error\(s\)inloadingstate_dict(?:for)?(?P<name>[\w.]{0,200})"
    r"|(?P<missing>[Mm]issingkey(?:\(s\)|s)(?:instate_dict)?:)"
    r"|(?P<unexpected>[Uu]nexpectedkey(?:\(s\)|s)(?:instate_dict)?:)"
    r"|sizemismatch(?:for)?(?P<key>[^\s\"':,|]{1,500}):"
    r"(?:copyingaparamwithshape(?:torch\.Size\(\[)?[\[(]?(?P<file>[\d,]{0,200})[\])]{0,3}fromcheckpoint,"
    r"(?:theshapeincurrentmodelis)(?:torch\.Size\(\[)?[\[(]?(?P<model>[\d,]{0,200})[\])]"
    r"|copyingaparamof(?:torch\.Size\(\[)?(?P<old_file>[\d,]{0,200})\]\)fromcheckpoint,"
    r"wheretheshapeis(?:torch\.Size\(\[)?(?P<old_model>[\d,]{0,200})\]\)incurrentmodel)"
    r"|[Ww]hilecopyingtheparameternamed[\"'](?P<copied>[^\s\"']{1,500})[\"'],whosedimensionsinthemodelare"
    r"(?:torch\.Size\(\[)?(?P<copied_model>[\d,]{0,200})\]?\)?andwhosedimensionsinthecheckpointare"
    r"(?:torch\.Size\(\[)?(?P<copied_file>[\d,]{0,200})"
)
# As people shorten it: `size mismatch for lm_head.weight (151936 vs 151665)`, `… : torch.Size([64, 1280]) vs …`.
_SHORTENED = re.compile(
    r"sizemismatch(?:for|:)?(?P<key>[A-Za-z_.][\w.]{0,300}?)[:(]{0,2}\.{0,3}(?:torch\.Size\()?\[?(?<!\w)(?P<file>\d{1,9}[\d,.]{0,60})"
    r"[\])]{0,2}vs\.?(?:torch\.Size\()?\[?(?P<model>\d{1,9}[\d,.]{0,60})"
)
_KEY = re.compile(r",?[\"']([^\"']{1,500})[\"']")
_BARE_KEY = re.compile(r",?([A-Za-z_][\w.]{0,499}\.[A-Za-z_]\w{0,200})(?=[,.]|$)")
_ELLIPSIS = re.compile(r",?(?:\.{2,}|…)")


@dataclass
class Listed:
    """The names and shapes of one failure; ``cut`` where a list breaks off, ``at`` its place in the squeezed text."""

    class_name: str = ""
    missing: dict[str, None] = field(default_factory=dict)
    unexpected: dict[str, None] = field(default_factory=dict)
    clashes: dict[str, Clash] = field(default_factory=dict)
    cut: bool = False
    at: int = 0

    @property
    def count(self) -> int:
        """How many names are listed."""
        return len(self.missing) + len(self.unexpected) + len(self.clashes)


def parse(squeezed: str) -> Listed | None:
    """What the text's `load_state_dict` failures list; of several different ones the longest. None where there is none.

    Many ranks say the same thing through each other: what belongs to one class is put together.
    """
    if "key(s)" not in squeezed and "sizemismatch" not in squeezed and "whosedimensionsinthe" not in squeezed:
        return None
    failures: dict[str, Listed] = {}
    current = Listed()
    for match in _PARTS.finditer(squeezed):
        kind = match.lastgroup
        if match["name"] is not None:
            name = re.split(r"Missingkey|Unexpectedkey|sizemismatch", match["name"])[0]
            current = failures.setdefault(name, Listed(name, at=match.start()))
        elif kind in ("missing", "unexpected"):
            keys = current.missing if kind == "missing" else current.unexpected
            complete = take_keys(squeezed, match.end(), keys)
            current.cut = current.cut or not complete
        elif (clash := _clash(match)) is not None and len(current.clashes) < MOST_KEYS:
            current.clashes.setdefault(clash.key, clash)
        if not current.at:
            current.at = match.start()
        if current.count and current.class_name not in failures:
            failures[current.class_name] = current
    if not any(one.clashes for one in failures.values()):
        for match in _SHORTENED.finditer(squeezed):
            current = failures.setdefault(current.class_name, current)
            clash = Clash(match["key"].strip("."), shape_of(match["file"]), shape_of(match["model"]))
            current.clashes.setdefault(clash.key, clash)
    found = [one for one in failures.values() if one.count]
    return max(found, key=lambda one: one.count) if found else None


def take_keys(squeezed: str, at: int, into: dict[str, None]) -> bool:
    """Take the quoted names from ``at`` on; whether their list is complete."""
    shortened = False
    pattern = _KEY if squeezed[at : at + 1] in ("'", '"') else _BARE_KEY
    while len(into) < MOST_KEYS:
        match = pattern.match(squeezed, at)
        if match is None:
            break
        name = match[1].rstrip(".…")
        shortened = shortened or name != match[1]
        if name:
            into[name] = None
        at = match.end()
    return not shortened and not _ELLIPSIS.match(squeezed, at) and squeezed[at : at + 1] in (".", "", "\n")


def _clash(match: re.Match[str]) -> Clash | None:
    if match["key"] is not None:
        file, model = match["file"] or match["old_file"], match["model"] or match["old_model"]
        return Clash(match["key"].lstrip(".…"), shape_of(file), shape_of(model))
    if match["copied"] is not None:
        file, model = shape_of(match["copied_file"]), shape_of(match["copied_model"])
        return Clash(match["copied"], file, model) if file != model else None
    return None


def shape_of(text: str | None) -> Shape:
    """The shape written as ``64,32``; empty for none."""
    return tuple(int(size) for size in (text or "").split(",") if size.isdecimal() and len(size) < 19)


def contradictions(listed: Listed) -> tuple[str, ...]:
    """Names that stand both under missing and under a wrong shape, which torch never says: the text was edited."""
    return tuple(name for name in listed.clashes if name in listed.missing)
