"""AD220: base weights inside."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adapter_doctor import knowledge
from adapter_doctor.facts import AdapterConfig, BaseCopies, BaseFolder, Fit
from adapter_doctor.findings import Hit, Severity, Undecided, counted, some
from adapter_doctor.formats.base_names import same_base
from adapter_doctor.rules import rule

_EMBEDDINGS = knowledge.embedding_layers()


@rule("AD220", Severity.ERROR, explains=("AD303", "AD308", "AD5"), repairable=True)
def base_weights_inside(config: AdapterConfig, fit: Fit, copies: BaseCopies, base: BaseFolder) -> Iterator[Hit]:
    """The file carries weights of the base model, which overwrite the base's own on load.

    ## Why it matters
    A tensor named like a base weight lands on the base. Neither `disable_adapter()` nor `unload()` brings it back, and
    on another base of the same shape it replaces what was there without a word.

    ## Common causes
    `save_embedding_layers=True`, LoRA on the embeddings (which stores a copy of them), `modules_to_save` removed from the
    config afterwards, or a state dict that was not filtered.

    ## Fix
    If these weights were trained, name their modules in `modules_to_save`; otherwise remove the tensors from the file.
    """
    rows = {clash.key for clash in fit.clashes}
    changed = sorted(copies.different)
    if changed:
        yield Hit(
            f"{counted(len(changed), 'tensor', 'tensors')} would replace base weights by other values",
            count=len(changed),
            examples=some(changed),
        )
    unread = sorted(key for key in copies.unread if key not in rows)
    copied = [key for key in unread if key.endswith(".base_layer.weight")]
    # PEFT saves embeddings beside the adapter by itself; any other base weight is there by mistake.
    saved = [
        key
        for key in unread
        if re.sub(r"(\.token_adapter)?(\.base_layer)?\.[^.]+$", "", key).rpartition(".")[2] in _EMBEDDINGS
    ]
    stray = [key for key in unread if key not in saved]
    if stray:
        yield Hit(
            f"{counted(len(stray), 'tensor carries the name of a base weight', 'tensors carry the names of base weights')}",
            count=len(stray),
            examples=some(stray),
        )
    if same_base(config.base_name, base.reference):
        saved = [key for key in saved if key not in copied]  # PEFT's own copies of the base that was named
    if saved:
        raise Undecided(
            f"{counted(len(saved), 'tensor replaces', 'tensors replace')} embeddings of the base, and its own were not at hand to compare them with"
        )
