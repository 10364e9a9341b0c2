"""AD504: base overwritten."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, BaseCopies, LoadOutcome
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD504", Severity.ERROR)
def base_overwritten(outcome: LoadOutcome, copies: BaseCopies, config: AdapterConfig) -> Iterator[Hit]:
    """Loading the adapter changed weights of the base itself.

    ## Why it matters
    `disable_adapter()` and `unload()` do not bring them back: the base is another model from then on.

    ## Common causes
    Tensors in the file that carry names of base weights.

    ## Fix
    Remove those tensors from the file, or name their modules in `modules_to_save` if they were trained.
    """
    # These take their part out of the base when they are built, and are saved so.
    rewrites = str(config.get("init_lora_weights")).lower().startswith(("pissa", "olora", "corda", "loftq"))
    changed = [key for key in outcome.overwritten if key in copies.different] or (
        [] if rewrites else list(outcome.changed_base)
    )
    if changed:
        yield Hit(
            f"{len(changed)} base weights were replaced by other values", count=len(changed), examples=some(changed)
        )
