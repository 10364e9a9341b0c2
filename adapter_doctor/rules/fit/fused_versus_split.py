"""AD312: fused versus split."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, AdapterTensors, BaseModules, Comparison
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.knowledge.remote_code import STACKED
from adapter_doctor.rules import rule
from adapter_doctor.rules.fit._remote_code import layouts, mends, reason, unchanged


@rule(
    "AD312",
    Severity.ERROR,
    explains=("AD301", "AD302", "AD303", "AD304", "AD305", "AD314", "AD5", "AD803", "AD804", "AD805", "AD815"),
    repairable=True,
)
def fused_versus_split(
    comparison: Comparison, tensors: AdapterTensors, base: BaseModules, config: AdapterConfig
) -> Iterator[Hit]:
    """Layers are fused in the base and split in the adapter, or the other way round.

    ## Why it matters
    q_proj, k_proj and v_proj are one qkv_proj elsewhere (gate and up likewise). PEFT finds no place and drops the tensors.

    ## Common causes
    A base converted to another implementation of the same model (Phi-3, Qwen, InternLM2, Baichuan to a Llama layout); a
    model trained by its own repository's code, for which transformers has a class today (Phi-2, GLM-4, OLMo).

    ## Fix
    Use the implementation of the base that the adapter was trained on; a fused update of rank r becomes split ones of
    rank r, split ones become a fused one of their summed rank.
    """
    keys, remote = comparison.strays.get("fused", ()), comparison.remote
    if not keys or comparison.of_another_size or (remote is not None and comparison.strays.get("renamed")):
        return  # with a rename beside it, AD311 speaks of both
    what = f"{len(keys)} of {len(tensors)} tensors are for layers that are fused or split differently in the base"
    if remote is None:
        can = all(_mends(key, base, config) for key in keys)
        yield Hit(what, where=tensors.file, count=len(keys), examples=some(keys), repairable=can)
        return
    can = mends(config, apart=remote.in_adapter)
    do = "put the updates of split layers together"
    if remote.in_adapter:
        do = "take the updates of fused layers apart by rows"
    keep = unchanged(remote)
    yield Hit(
        f"{what}: they have {reason(remote)}; {layouts(remote)}",
        where=tensors.file,
        count=len(keys),
        examples=some(keys),
        fix=f"{do}, as `adapter-doctor fix` does; {keep}" if can else keep.removeprefix("or "),
        repairable=can,
    )


def _mends(key: str, base: BaseModules, config: AdapterConfig) -> bool:
    """Whether the fused layer holds its parts one behind the other, so that the rows of an update can be told apart."""
    one = parse(key)
    parent, _, leaf = one.module.rpartition(".") if one is not None else ("", "", "")
    if leaf in STACKED:
        return mends(config, apart=True)
    wholes = (whole for whole, parts in STACKED.items() if leaf in parts)
    return mends(config, apart=False) and any(f"{parent}.{whole}" in base.modules for whole in wholes)
