"""AD602: a card without the metadata that the Hub goes by."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import ModelCard
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule

_WANTED = ("base_model", "library_name", "license", "pipeline_tag", "tags")


@rule("AD602", Severity.WARNING)
def card_incomplete(card: ModelCard) -> Iterator[Hit]:
    """The model card lacks metadata that the Hub goes by.

    ## Why it matters
    The Hub reads the block between two `---` at the top of `README.md`: the base model's page lists the adapter only by
    `base_model`, searches find it by `pipeline_tag` and `tags`, `library_name` makes the code snippet, and without a
    `license` nobody may use it.

    ## Common causes
    A card written by hand; PEFT's own template, which leaves most of it open.

    ## Fix
    Run `adapter-doctor upload FOLDER REPO_ID --fix-card`, which adds what is known and asks for the licence.
    """
    if card.trouble:
        yield Hit(f"the metadata of the card cannot be read: {card.trouble}", where="README.md",
                  fix="Correct the YAML between the two `---` at the top of README.md.")  # fmt: skip
    elif card.present:
        absent = [key for key in _WANTED if not card.names(key)]
        if absent:
            yield Hit(f"the card's metadata lack {', '.join(absent)}", where="README.md", count=len(absent))
