"""What to do about an adapter that no rearrangement mends: where its weights may be, and what to run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from adapter_doctor.report import Report

# Codes of defects that mean the trained numbers are not in the file.
LOST = {
    "AD209": "the tensors are placeholders without elements",
    "AD203": "the weights are cut off",
    "AD202": "the weights are a Git LFS pointer, not the weights",
    "AD214": "no update was ever saved: every factor that starts at zero is zero",
    "AD213": "values are NaN or infinite",
    "AD201": "there are no weights",
    "AD212": "half of the pairs of tensors is missing",
}
SERVING = ("AD701", "AD702", "AD703")
"""Codes of findings about a serving engine, which a merged model does not trouble."""
_ZERO = "zero_to_fp32.py"
_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")


def advice(report: Report, files: Mapping[str, int], folder: Path | None) -> tuple[str, ...]:
    """Sentences for the user; none where the weights are all there and no engine refuses them.

    ``files`` are those of the adapter's folder, ``folder`` where it lies on this disk, if it does.
    """
    fired = [one.rule.code for one in report.findings if one.rule.code in LOST and one.consequence_of is None]
    if not fired:
        served = [one for one in report.findings if one.rule.code in SERVING]
        merge = "merge it instead: PeftModel.from_pretrained(base, adapter).merge_and_unload(), and see with"
        return (
            (f"{merge} `adapter-doctor verify-merge BASE ADAPTER MERGED` that the update is in it",) if served else ()
        )
    said = [f"the trained numbers are not in the file: {LOST[fired[0]]}"]
    if fired[0] == "AD202":
        return (*said, "fetch the file itself: `git lfs pull` in the repository, or `hf download`")
    found = _real_weights(files, folder)
    return (*said, *found) if found else (*said, "nothing in the folder or beside it looks like an earlier save; train again")  # fmt: skip


def _real_weights(files: Mapping[str, int], folder: Path | None) -> list[str]:
    steps = sorted({name.partition("/")[0] for name in files if name.startswith("global_step")}, key=_number)
    said = []
    here = shlex.quote(str(folder)) if folder is not None else "."
    if steps:
        shards = sum(1 for name in files if name.startswith(f"{steps[-1]}/"))
        tool = f"python {here}/{_ZERO} {here} {here}/fp32" if _ZERO in files else f"python -m deepspeed.utils.zero_to_fp32 {here} {here}/fp32"  # fmt: skip
        said.append(
            f"DeepSpeed's own checkpoint is in {steps[-1]}/ ({shards} files): run `{tool}`, then examine its result"
        )
    elif _ZERO in files:
        said.append(f"{_ZERO} is here and its global_step folder is not: look for it where the training ran")
    for place in _checkpoints(folder):
        said.append(f"{place} holds adapter weights: run `adapter-doctor check BASE {shlex.quote(str(place))}`")
    return said


def _checkpoints(folder: Path | None) -> list[Path]:
    """Checkpoints in the folder and beside it that hold adapter weights, the latest first, at most three."""
    if folder is None:
        return []
    found: dict[Path, int] = {}
    for parent in (folder, folder.parent):
        try:
            inside: Iterable[Path] = list(parent.iterdir())[:1000]
            for one in inside:
                weights = one / "adapter_model.safetensors"
                if _CHECKPOINT.match(one.name) and one.resolve() != folder.resolve() and weights.is_file():
                    found[one] = int(one.name.partition("-")[2])
        except OSError:  # a folder that may not be listed tells nothing
            continue
    return sorted(found, key=lambda one: -found[one])[:3]


def _number(name: str) -> int:
    digits = re.search(r"\d{1,15}", name)
    return int(digits[0]) if digits else 0
