"""AD604: a path of the author's machine."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, ModelCard
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.base_names import is_local_path
from adapter_doctor.rules import rule

_FIELDS = ("base_model_name_or_path", "tokenizer_name_or_path")


@rule("AD604", Severity.ERROR, explains=("AD009",))
def local_path_published(config: AdapterConfig, card: ModelCard) -> Iterator[Hit]:
    """A path of the author's machine would be published.

    ## Why it matters
    Nobody else has that path: PEFT looks for the base there and fails, or finds something else; and it tells the world
    how the author's folders are named.

    ## Common causes
    The base was loaded from a local folder, whose path PEFT writes into config and card.

    ## Fix
    Write the base's id on the Hub (`owner/name`) in its place.
    """
    for field in _FIELDS:
        value = config.get(field)
        if isinstance(value, str) and is_local_path(value):
            yield Hit(f"`{field}` is the local path {value!r}, expected an id on the Hub", where="adapter_config.json")
    named = [*card.names("base_model"), *(tag.partition(":adapter:")[2] for tag in card.names("tags"))]
    local = [one for one in named if is_local_path(one)]
    if local:
        yield Hit(f"the card names the base by the local path {local[0]!r}", where="README.md")
