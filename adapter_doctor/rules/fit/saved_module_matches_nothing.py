"""AD320: saved module matches nothing."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, BaseModules
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD320", Severity.WARNING)
def saved_module_matches_nothing(config: AdapterConfig, base: BaseModules) -> Iterator[Hit]:
    """An entry of `modules_to_save` names no module of the base.

    ## Why it matters
    PEFT passes over it without a word: what was meant to be trained and saved is not.

    ## Common causes
    A typing error, or names of another model family.

    ## Fix
    Correct or remove the entry.
    """
    saved = config.get("modules_to_save")
    if not isinstance(saved, list):
        return
    auto = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}
    lost = [one for one in saved if isinstance(one, str) and one not in auto.get(config.task_type, ())
            and not any(name.endswith(one) for name in base.modules if name)]  # fmt: skip
    if lost:
        yield Hit(f"{len(lost)} of {len(saved)} entries match no module: {', '.join(map(repr, lost[:5]))}",
                  where="adapter_config.json", count=len(lost), examples=some(lost))  # fmt: skip
