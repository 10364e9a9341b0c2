"""AD601: no model card."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import ModelCard
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD601", Severity.WARNING)
def no_model_card(card: ModelCard) -> Iterator[Hit]:
    """There is no model card.

    ## Why it matters
    Without a `README.md` nobody learns what the adapter is for, which base it belongs to or how it may be used, and the
    Hub lists it under no base, task or licence.

    ## Common causes
    The folder was put together by hand, or comes from a trainer's checkpoint.

    ## Fix
    Write a `README.md`; `adapter-doctor upload FOLDER REPO_ID --fix-card` begins one with the metadata that are known.
    """
    if not card.present:
        yield Hit("there is no README.md", where="README.md")
