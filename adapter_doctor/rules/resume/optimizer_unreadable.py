"""AD802: optimizer unreadable."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD802", Severity.ERROR)
def optimizer_unreadable(checkpoint: Checkpoint) -> Iterator[Hit]:
    """The optimizer's file cannot be read.

    ## Why it matters
    `torch.load(weights_only=True)` raises, and the Trainer with it.

    ## Common causes
    A disk that was full or a job that was killed while it saved; `git clone` without LFS; a state that holds Python objects,
    as that of GaLore and APOLLO does.

    ## Fix
    Resume from the checkpoint before it. Without this file the moments and the schedule begin anew.
    """
    state = checkpoint.state(checkpoint.optimizer)
    if state.state not in ("ok", "absent", "foreign"):
        yield Hit(
            f"{state.detail} ({state.size:,} bytes)" if state.size else state.detail,
            where=state.name,
            fix=_projector(state.detail) or _FIXES.get(state.state) or _older(checkpoint),
        )


_FIXES = {
    "pointer": "fetch the file itself: `git lfs pull`, or `hf download`",
    "unsafe": "have the one who trained it save `optimizer.state_dict()` as tensors and numbers; do not set"
    " `weights_only=False` for a file you did not make",
}


_PROJECTOR = re.compile(r"((?:galore|apollo)_torch\.\w+)\.(\w*Projector)")


def _projector(detail: str) -> str | None:
    """For a state that holds the projectors of GaLore or APOLLO: how torch is told to take them."""
    found = _PROJECTOR.search(detail)
    return found and (
        f"if the file is your own, run `from {found[1]} import {found[2]}` and"
        f" `torch.serialization.add_safe_globals([{found[2]}])` before the training goes on"
    )


def _older(checkpoint: Checkpoint) -> str | None:
    return f"resume from {checkpoint.older[0]}, which is whole" if checkpoint.older else None
