"""AD309: unsupported module."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Fit
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD309", Severity.ERROR, explains=("AD501", "AD503", "AD502"))
def unsupported_module(fit: Fit) -> Iterator[Hit]:
    """A targeted module is of a class that PEFT cannot adapt.

    ## Why it matters
    PEFT raises; nothing is loaded.

    ## Common causes
    A target that names a whole block (`mlp`, `self_attn`) instead of its linear layers, or a regular expression that is
    too wide.

    ## Fix
    Name the linear layers themselves in `target_modules`, or use `all-linear`.
    """
    if fit.refusal is not None and "not supported" in fit.refusal.message and "arget module" in fit.refusal.message:
        yield Hit(fit.refusal.line, where="adapter_config.json")
