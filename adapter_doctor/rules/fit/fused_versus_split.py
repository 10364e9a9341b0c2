"""AD312: fused versus split."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, Comparison
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule(
    "AD312",
    Severity.ERROR,
    explains=("AD301", "AD302", "AD303", "AD304", "AD305", "AD314", "AD5", "AD803", "AD804", "AD805", "AD815"),
    repairable=True,
)
def fused_versus_split(comparison: Comparison, tensors: AdapterTensors) -> Iterator[Hit]:
    """Layers are fused in the base and split in the adapter, or the other way round.

    ## Why it matters
    q_proj, k_proj and v_proj are one qkv_proj elsewhere (gate and up likewise). PEFT finds no place and drops the tensors.

    ## Common causes
    A base converted to another implementation of the same model (Phi-3, ChatGLM, InternLM, Baichuan to a Llama layout).

    ## Fix
    Use the implementation of the base that the adapter was trained on; a fused update of rank r becomes split ones of
    rank r, split ones become a fused one of their summed rank.
    """
    keys = comparison.strays.get("fused", ())
    if keys and not comparison.of_another_size:
        yield Hit(f"{len(keys)} of {len(tensors)} tensors are for layers that are fused or split differently in the base",
                  where=tensors.file, count=len(keys), examples=some(keys))  # fmt: skip
