"""Which tensors switch an adapter's effect on: those that start at a neutral value and move with the first step."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_doctor.facts import AdapterConfig, AdapterTensors, TensorValues
from adapter_doctor.formats.adapter_keys import parse

# The parameter that each method starts at zero, so that a new adapter changes nothing (`reset_*_parameters` and the
# like in PEFT 0.21's layers; the test asks PEFT). IA3's is a factor and starts at one.
_GATES: dict[str, tuple[str, ...]] = {
    "LORA": ("lora_B", "lora_embedding_A"),
    "ADALORA": ("lora_E",),
    "LOHA": ("hada_w2_a",),
    "LOKR": ("lokr_w1", "lokr_w1_a"),
    "HIRA": ("hira_B",),
    "VERA": ("vera_lambda_b",),
    "PVERA": ("pvera_lambda_b",),
    "OFT": ("oft_R",),
    "MISS": ("miss_block",),
    "LN_TUNING": (),
    "IA3": ("ia3_l",),
    "SHIRA": ("shira_weight",),
}


# The other factor of the product: where it is zero, the update is zero whatever the gate holds.
_PARTNERS = {"lora_B": "lora_A", "lora_embedding_A": "lora_embedding_B", "hira_B": "hira_A"}


@dataclass(frozen=True, slots=True)
class Gates:
    """The gate tensors of an adapter, those still at their neutral value, and whether other tensors act besides."""

    kind: str
    idle_value: str
    all: tuple[str, ...]
    idle: tuple[str, ...]
    other_effects: bool


def gates(config: AdapterConfig, tensors: AdapterTensors, values: TensorValues) -> Gates:
    """The gates of this adapter; none for a method that this table lacks."""
    wanted = _GATES.get(config.peft_type, ())
    one_is_neutral = config.peft_type == "IA3"
    found, idle, other = [], [], False
    partners: set[str] = set()
    for name in tensors:
        parsed = parse(name)
        summary = values.summaries.get(name)
        if parsed is None or parsed.parameter in ("lora_magnitude_vector", "trainable_tokens_delta", "token_adapter"):
            other = True  # a saved head, trained tokens or DoRA's magnitudes act on their own
        elif parsed.parameter in wanted and not parsed.tail.endswith(".bias") and summary is not None:
            found.append(name)
            partner = _PARTNERS.get(parsed.parameter, "")
            other_name = name.replace(parsed.parameter, partner) if partner else ""
            other_summary = values.summaries.get(other_name)
            if summary.constant_one if one_is_neutral else summary.zero:
                idle.append(name)
            elif other_summary is not None and other_summary.zero:
                idle.append(other_name)
                partners.add(partner)
    kind = wanted[0] if wanted else ""
    if partners and len(idle) == len(found):
        kind = " or ".join(sorted({*partners, *(one for one in wanted[:1] if any(f".{one}" in name for name in idle))}))
    return Gates(kind, "one" if one_is_neutral else "zero", tuple(found), tuple(idle), other)
