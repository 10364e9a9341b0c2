"""The widths of the layers that an adapter's tensors were made for, read off their shapes."""

from __future__ import annotations

from collections.abc import Iterable

from adapter_doctor.facts import AdapterTensors, Shape
from adapter_doctor.formats.adapter_keys import PREFIX, AdapterKey, parse

Width = tuple[int | None, int | None]
"""(out_features, in_features) of a layer, or (embedding_dim, num_embeddings), as far as they are told."""

# Which side of a layer's weight a factor of rank r carries, from the shapes in PEFT's layers (0.21).
_INTO = ("lora_A", "lora_embedding_A", "hada_w1_b", "hada_w2_b", "hira_A", "delora_A")
_OUT = ("lora_B", "lora_embedding_B", "hada_w1_a", "hada_w2_a", "hira_B", "delora_B")
_EMBEDDINGS: tuple[str, ...] = (
    "embed_tokens",
    "wte",
    "word_embeddings",
    "embed_in",
    "shared",
    "tok_embeddings",
    "token_embedding",
)
_HEADS: tuple[str, ...] = ("lm_head", "embed_out", "output_layer")

_ROLES: tuple[tuple[tuple[str, ...], tuple[str, str]], ...] = (
    (("q_proj", "query", "q", "q_lin", "query_proj"), ("query width", "hidden size")),
    (("k_proj", "v_proj", "key", "value", "k", "v", "k_lin", "v_lin", "key_proj", "value_proj"),
     ("key/value width", "hidden size")),
    (("up_proj", "gate_proj", "fc1", "dense_h_to_4h", "c_fc", "w1", "w3", "wi", "wi_0", "lin1", "fc_in"),
     ("intermediate size", "hidden size")),
    (("down_proj", "fc2", "dense_4h_to_h", "lin2", "fc_out"), ("hidden size", "intermediate size")),
    (("o_proj",), ("hidden size", "query width")),
    (("qkv_proj", "query_key_value", "Wqkv", "W_pack", "c_attn", "gate_up_proj"), ("", "hidden size")),
    (_EMBEDDINGS, ("hidden size", "vocabulary")),
    (_HEADS, ("vocabulary", "hidden size")),
)  # fmt: skip
ROLES = {leaf: roles for leaves, roles in _ROLES for leaf in leaves}
"""What a layer's out_features and in_features are, by its last name; empty where they are a sum of several sizes."""


def width_in(one: AdapterKey, shape: Shape) -> Width | None:
    """What one adapter tensor tells of its layer's widths, if anything."""
    if len(shape) < 2 or 0 in shape:
        return None
    if one.parameter in _INTO:
        return None, shape[1]
    if one.parameter in _OUT and not one.tail.endswith(".bias"):
        return shape[0], None
    if one.parameter == "hra_u":
        return None, shape[0]
    return None


def module_widths(tensors: AdapterTensors) -> dict[str, Width]:
    """Widths by module path, of every module that the adapter has tensors for; (None, None) where they tell none.

    An embedding or output head that was saved whole counts too; other modules saved whole (the head of a task) do not,
    since the base need not have them. LoRA on stacked experts is left out: its rank is in both of its sizes.
    """
    found: dict[str, Width] = {}
    for key, info in tensors.tensors.items():
        one = parse(key)
        if one is None:
            module, _, own = key.removeprefix(PREFIX).rpartition(".")
            leaf = module.rpartition(".")[2]
            if own == "weight" and len(info.shape) == 2 and leaf in _EMBEDDINGS:
                found[module] = info.shape[1], info.shape[0]
            elif own == "weight" and len(info.shape) == 2 and leaf in _HEADS:
                found[module] = info.shape[0], info.shape[1]
            continue
        module = one.module.removesuffix(".base_layer")
        if not module or module.endswith("experts"):
            continue
        out, into = found.get(module, (None, None))
        more = width_in(one, info.shape) or (None, None)
        found[module] = out or more[0], into or more[1]
    return found


def pattern_of(path: str) -> str:
    """A module path with `*` for every number."""
    return ".".join("*" if part.isdecimal() else part for part in path.split("."))


def depth_of(paths: Iterable[str]) -> int:
    """One more than the highest number on the first numbered level of these paths; 0 where none has one."""
    numbers = (next((int(part) for part in path.split(".") if part.isdecimal()), -1) for path in paths)
    return max(numbers, default=-1) + 1
