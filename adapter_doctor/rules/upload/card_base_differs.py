"""AD603: the card names another base."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, ModelCard
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.base_names import is_local_path
from adapter_doctor.rules import rule


@rule("AD603", Severity.ERROR)
def card_base_differs(card: ModelCard, config: AdapterConfig) -> Iterator[Hit]:
    """The model card names another base model than the config.

    ## Why it matters
    PEFT loads the base that `adapter_config.json` names; people and the Hub go by the card. One of them is wrong.

    ## Common causes
    A card copied from another adapter; a config edited after a move to another base; training from a local copy.

    ## Fix
    Make `base_model` in README.md and `base_model_name_or_path` in adapter_config.json the same.
    """
    named = card.names("base_model")
    base = config.base_name
    if named and base and not is_local_path(base) and base.lower() not in {one.lower() for one in named}:
        yield Hit(
            f"the card says base_model {', '.join(map(repr, named[:3]))}, the config says {base!r}",
            where="README.md",
            fix=f"If the config is right, write `base_model: {base}` in README.md.",
        )
