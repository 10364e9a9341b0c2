"""AD212: unpaired tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, AdapterTensors
from adapter_doctor.findings import Hit, Severity, counted, some
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.rules import rule

_PAIRS = {
    "lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B", "hada_w1_a": "hada_w1_b", "hada_w2_a": "hada_w2_b",
    "vera_lambda_b": "vera_lambda_d", "hira_A": "hira_B", "delora_A": "delora_B", "lokr_w1_a": "lokr_w1_b",
    "lokr_w2_a": "lokr_w2_b", "deft_P": "deft_R", "gralora_A": "gralora_B", "boft_R": "boft_s",
    "adaption_prompt": "adaption_gate", "road_theta": "road_alpha", "shira_weight": "shira_indices",
}  # fmt: skip


@rule("AD212", Severity.ERROR, explains=("AD303", "AD304", "AD305", "AD5"))
def unpaired_tensors(config: AdapterConfig, tensors: AdapterTensors) -> Iterator[Hit]:
    """Half of a pair of tensors is missing.

    ## Why it matters
    An update needs both factors. PEFT leaves the missing one at its initial value, and only warns.

    ## Common causes
    A file assembled by hand, a filter over names that caught one factor only, an interrupted conversion.

    ## Fix
    Save the adapter again from the model that was trained; a lost factor cannot be computed from the other.
    """
    has: dict[str, set[str]] = defaultdict(set)
    for name in tensors:
        one = parse(name)
        if one is not None:
            has[one.module].add(one.parameter)
    partners = {**_PAIRS, **{second: first for first, second in _PAIRS.items()}}
    if config.peft_type == "DEFT" and config.get("para"):
        partners = {}  # this variant has only the one factor
    lonely = [
        f"{module}: {part} without {partners[part]}"
        for module, parts in has.items() for part in sorted(parts)
        if part in partners and partners[part] not in parts
    ]  # fmt: skip
    if lonely:
        yield Hit(
            f"{counted(len(lonely), 'tensor lacks its', 'tensors lack their')} partner",
            where=tensors.file,
            count=len(lonely),
            examples=some(lonely),
        )
    bare = [
        module for module, parts in has.items()
        if config.get("use_dora") is True and {"lora_A", "lora_B"} <= parts and "lora_magnitude_vector" not in parts
    ]  # fmt: skip
    if config.peft_type == "LORA" and bare:
        yield Hit(
            f"`use_dora` is set, but {len(bare)} of {len(has)} modules have no lora_magnitude_vector",
            where=tensors.file,
            count=len(bare),
            examples=some(bare),
            fix="set `use_dora` to false if this was never DoRA; otherwise save again, the magnitudes cannot be restored",
        )
