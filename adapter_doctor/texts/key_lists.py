"""Parse the warnings and reports that list names of tensors: PEFT's, transformers' of both ages, diffusers'.

- PEFT (`PeftModel.from_pretrained`): `Found missing adapter keys while loading the checkpoint: [...]`;
- transformers 5 (`utils/loading_report.py`): a table of `KEY | STATUS | …` under `CLASS LOAD REPORT`, in which layers
  that agree are one row, `layers.{0, 1, 2}.…` or, from eleven on, `layers.{0...31}.…`;
- transformers 4: `Some weights of CLASS were not initialized from the model checkpoint at X and are newly initialized:
  [...]`, and with shapes `- NAME: found shape … in the checkpoint and … in the model instantiated`;
- diffusers: `Loading adapter weights from state_dict led to unexpected keys …`; torch: `_IncompatibleKeys(...)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice, product

from adapter_doctor.facts import Clash
from adapter_doctor.texts.state_dict_error import MOST_KEYS, Listed, shape_of, take_keys

_MOST_LAYERS = 2_000
_ROW = re.compile(
    r"(?P<key>[A-Za-z_][\w.{},…*]{0,500})\|(?P<status>UNEXPECTED|MISSING|MISMATCH)\|?"
    r"(?:(?:\|)?Reinitduetosizemismatch-ckpt:(?:torch\.Size\(\[)?(?P<file>[\d,]{0,200})\]?\)?"
    r"vsmodel:(?:torch\.Size\(\[)?(?P<model>[\d,]{0,200}))?"
)
_REPORT = re.compile(r"(?P<name>\w{1,200})LOADREPORT")
_LISTS = (
    # (source, which list, what stands before the names, a constant part of it that is looked for first)
    ("peft", "missing", re.compile(r"[Mm]issingadapterkeyswhileloadingthecheckpoint:\["), "adapterkeyswhileloading"),
    ("diffusers", "missing", re.compile(r"fromstate_dictledtomissingkeysinthemodel:"), "ledtomissingkeys"),
    ("diffusers", "unexpected", re.compile(r"fromstate_dictledtounexpectedkeys(?:notfoundinthemodel)?:\[?"), "ledtounexpectedkeys"),
    ("torch", "missing", re.compile(r"_?IncompatibleKeys[(.]{0,4}missing_keys=\["), "IncompatibleKeys"),
    ("torch", "unexpected", re.compile(r"unexpected_keys=\["), "unexpected_keys="),
    ("trainer", "missing", re.compile(r"Thereweremissingkeysinthecheckpointmodelloaded:\["), "Thereweremissing"),
    ("trainer", "unexpected", re.compile(r"Therewereunexpectedkeysinthecheckpointmodelloaded:\["), "Therewereunexpected"),
    ("transformers", "missing", re.compile(
        r"[Ss]omeweightsof(?P<name>\w{1,200}?)werenotinitialized[^\[]{0,400}\["), "werenotinitialized"),
    ("transformers", "unexpected", re.compile(
        r"werenotusedwheninitializing(?P<name>\w{1,200}):[\[{]"), "notusedwheninitializing"),
)  # fmt: skip
_SHAPES = re.compile(
    r"-(?P<key>[A-Za-z_][\w.]{0,500}):foundshapetorch\.Size\(\[(?P<file>[\d,]{0,200})\]\)inthecheckpointand"
    r"torch\.Size\(\[(?P<model>[\d,]{0,200})\]\)inthemodelinstantiated"
)


def parse(squeezed: str) -> dict[str, Listed]:
    """The lists in a text by who made them: ``report``, ``peft``, ``diffusers``, ``torch``, ``trainer``, ``transformers``."""
    found: dict[str, Listed] = {}
    if "|UNEXPECTED" in squeezed or "|MISSING" in squeezed or "|MISMATCH" in squeezed:
        report = _report(squeezed)
        if report.count:
            found["report"] = report
    for source, which, opening, constant in _LISTS:
        for match in opening.finditer(squeezed) if constant in squeezed else ():
            listed = found.setdefault(source, Listed(at=match.start()))
            listed.class_name = listed.class_name or match.groupdict().get("name") or ""
            keys = listed.missing if which == "missing" else listed.unexpected
            complete = take_keys(squeezed, match.end(), keys) or squeezed[match.end() : match.end() + 1] == "]"
            listed.cut = listed.cut or not (complete or _closed(squeezed, match.end()))
    if "inthemodelinstantiated" in squeezed:
        for match in _SHAPES.finditer(squeezed):
            listed = found.setdefault("transformers", Listed(at=match.start()))
            listed.clashes[match["key"]] = Clash(match["key"], shape_of(match["file"]), shape_of(match["model"]))
    return {source: listed for source, listed in found.items() if listed.count}


def _closed(squeezed: str, at: int) -> bool:
    """Whether the list that begins at ``at`` ends as a list does, and not in an ellipsis."""
    end = squeezed.find("]", at, at + 20_000_000)
    return end > 0 and "..." not in squeezed[max(at, end - 5) : end]


def _report(squeezed: str) -> Listed:
    head = _REPORT.search(squeezed)
    listed = Listed(head["name"] if head else "", at=head.start() if head else 0)
    seen: set[str] = set()
    room = MOST_KEYS
    for match in _ROW.finditer(squeezed):
        if match[0] in seen:  # as every rank says the same
            continue
        seen.add(match[0])
        listed.at = listed.at or match.start()
        for key in expanded(match["key"]):
            room -= 1
            if room < 0:
                listed.cut = True
                return listed
            if match["status"] == "MISMATCH":
                if match["file"] is not None:
                    listed.clashes[key] = Clash(key, shape_of(match["file"]), shape_of(match["model"]))
            else:
                (listed.missing if match["status"] == "MISSING" else listed.unexpected)[key] = None
    return listed


def expanded(key: str) -> Iterator[str]:
    """The names that a row of the load report stands for: ``a.{0,1}.b`` and ``a.{0...3}.b``, at most 20,000."""
    parts = re.split(r"\{([^{}]{1,500})\}", key)
    choices = [[part] if at % 2 == 0 else list(_numbers(part)) for at, part in enumerate(parts)]
    return ("".join(one) for one in islice(product(*choices), 20_000))


def _numbers(part: str) -> Iterator[str]:
    ends = re.fullmatch(r"(\d{1,5})(?:\.\.\.|…)(\d{1,5})", part)
    if ends:
        first, last = int(ends[1]), int(ends[2])
        return map(str, range(first, min(last, first + _MOST_LAYERS) + 1))
    return iter(part.split(","))
