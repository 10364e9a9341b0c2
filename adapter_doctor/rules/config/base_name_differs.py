"""AD112: base name differs."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, BaseFolder
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.base_names import is_local_path, last_part, same_base
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG, shown


@rule("AD112", Severity.WARNING)
def base_name_differs(config: AdapterConfig, base: BaseFolder) -> Iterator[Hit]:
    """The adapter names another base than the one that was given.

    ## Why it matters
    PEFT never compares the two. On a base with other weights the adapter may load without a word and answer worse.

    ## Common causes
    A fine-tune or another size of the same family was given; the training ran from a local copy.

    ## Fix
    Use the base that the adapter names; if both are the same model, correct `base_model_name_or_path`.
    """
    named = config.base_name
    in_memory = not base.files and "/" not in base.reference  # then the reference may be no more than a class
    if not (base.given and base.exists) or in_memory or same_base(named, base.reference):
        return
    kind = f", a path that ends in {last_part(named)!r}" if is_local_path(named) else ""
    yield Hit(f"the adapter names {shown(named, 120)}{kind}, and was given {base.reference!r}", where=CONFIG)
