"""The shapes that a quantised checkpoint's layers stand for, from the tensors that they are packed into."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import Any

from adapter_doctor.facts import Missing, Shape
from adapter_doctor.formats import bounded_json

# Beside a layer's weight; none of them is a parameter of the layer that it stands for. From what transformers 5.23's
# integrations, gptqmodel, autoawq and compressed-tensors write.
_BESIDE = (
    ".qzeros", ".scales", ".g_idx", ".SCB", ".weight_format", ".weight_scale", ".weight_scale_inv", ".weight_scale_2",
    ".input_scale", ".output_scale", ".weight_zero_point", ".input_zero_point", ".weight_g_idx", ".weight_shape",
    ".weight_global_scale", ".input_global_scale", ".activation_scale", ".k_scale", ".v_scale",
)  # fmt: skip
_PACKED = (".qweight", ".weight_packed")
_FOURBIT = ".weight.quant_state.bitsandbytes__"  # holds the shape as JSON; the packed weight is (n, 1)
_WORD = 32


def quant_states(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """The tensors that hold, as JSON, what a 4-bit weight of bitsandbytes stands for, by the name of the weight."""
    return {name.partition(_FOURBIT)[0] + ".weight": name for name in shapes if _FOURBIT in name}


def shape_in(quant_state: bytes) -> Shape | None:
    """The shape in what :func:`quant_states` names; None where there is none. bitsandbytes 0.50 `QuantState.as_dict`."""
    try:
        shape = bounded_json.parse_object(quant_state).get("shape")
    except bounded_json.BadJson:
        return None
    if not isinstance(shape, list) or any(type(one) is not int or one < 0 for one in shape):
        return None
    return tuple(shape)


def logical_shapes(
    shapes: Mapping[str, Shape],
    quantization: Mapping[str, Any] | None,
    packed: Mapping[str, Shape] = MappingProxyType({}),
) -> dict[str, Shape] | Missing:
    """``shapes`` with each packed layer under the name and shape, (out_features, in_features), of what it stands for.

    ``packed`` are the shapes that were read from bitsandbytes' own notes. A checkpoint in which nothing is packed is
    given back as it is.
    """
    fourbit = quant_states(shapes)
    if not fourbit.keys() <= packed.keys():
        return Missing("bitsandbytes packs the base's weights to 4 bits; the shapes they stand for are inside the file")
    if any(name.endswith((".W_q", ".codes", ".codebooks", ".indices")) for name in shapes):
        return Missing("the base's weights are packed by their quantisation; their shapes are not those of the layers")
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        if name.endswith(_BESIDE) or _FOURBIT in name or name.rpartition(".")[0] in fourbit:
            continue
        if name in fourbit:
            if prod(packed[name]) > 2 * prod(shape):
                return Missing(
                    f"{name} has {prod(shape):,} bytes, too few for the {packed[name]} it is said to stand for"
                )
            found[name] = packed[name]
        elif name.endswith(_PACKED):
            layer = name.rpartition(".")[0]
            whole = _unpacked(layer, name, shapes, quantization or {})
            if whole is None:
                return Missing(f"how {name!r} is packed is not known, so the layers' shapes are not")
            found[f"{layer}.weight"] = whole
        elif name.endswith("_blocks") and len(shape) == 4:  # MXFP4 experts: (experts, out, in / 32, 16), two a byte
            experts, out, groups, half = shape
            found[name.removesuffix("_blocks")] = (experts, groups * half * 2, out)
        elif not (name.endswith("_scales") and f"{name.removesuffix('_scales')}_blocks" in shapes):
            found[name] = shape
    return found


def _unpacked(layer: str, name: str, shapes: Mapping[str, Shape], config: Mapping[str, Any]) -> Shape | None:
    packed, scales = shapes[name], shapes.get(f"{layer}.scales", ())
    if len(packed) != 2:
        return None
    if name.endswith(".weight_packed"):
        bits = _bits(config)
        return (packed[0], packed[1] * _WORD // bits) if bits else None
    bits, method = config.get("bits", config.get("w_bit")), config.get("quant_method")
    if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= _WORD or len(scales) != 2:
        return None
    if method == "awq" and str(config.get("version", "gemm")).lower() == "gemm":  # (in, out / values a word)
        return (scales[1], packed[0]) if packed[1] * _WORD // bits == scales[1] else None
    if method in ("gptq", "gptqmodel", "auto-round"):  # (in / values a word, out)
        return (packed[1], packed[0] * _WORD // bits) if packed[1] == scales[1] else None
    return None


def _bits(config: Mapping[str, Any]) -> int | None:
    """The one width of a compressed-tensors checkpoint's weights; None where groups differ or do not say."""
    groups = config.get("config_groups")
    widths = set()
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        widths.add(weights.get("num_bits") if isinstance(weights, dict) else None)
    only = widths.pop() if len(widths) == 1 else None
    return only if isinstance(only, int) and not isinstance(only, bool) and 1 <= only <= _WORD else None
