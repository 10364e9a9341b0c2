"""AD313: tied embeddings."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, AdapterTensors, BaseModules
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.rules import rule


@rule("AD313", Severity.WARNING)
def tied_embeddings(config: AdapterConfig, tensors: AdapterTensors, base: BaseModules) -> Iterator[Hit]:
    """The adapter changes one side of embeddings that are tied.

    ## Why it matters
    Input embedding and output head share one weight. Adapting one of them unties them in effect: merging, or loading on
    an untied copy, gives other outputs.

    ## Common causes
    `lm_head` or `embed_tokens` in `target_modules` or `modules_to_save` on a base with `tie_word_embeddings`.

    ## Fix
    Adapt both sides, or neither; in PEFT from 0.18 on set `ensure_weight_tying=True` when training.
    """
    if not base.tied or config.get("ensure_weight_tying"):
        return
    embeddings = {name for name, one in base.modules.items() if one.kind == "embedding" and base.output_embedding
                  and one.parameters.get("weight") == base.modules[base.output_embedding].parameters.get("weight")}  # fmt: skip
    sides = embeddings | ({base.output_embedding} if base.output_embedding else set())
    touched = set()
    for name in tensors:
        one = parse(name)
        module = one.module if one is not None else name.removeprefix("base_model.model.").rpartition(".")[0]
        touched |= {side for side in sides if side and module.removesuffix(".base_layer") == side}
    if touched and touched != sides:
        yield Hit(
            f"{', '.join(sorted(touched))} is adapted, and shares its weight with {', '.join(sorted(sides - touched))}"
        )
