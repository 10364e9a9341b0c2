"""The state that bitsandbytes' optimizers save, made of torch's AdamW's: names, dtypes, shapes and options as 0.50.2 has them.

Each is held against the library itself where it is installed: tests/test_bitsandbytes.py.
"""

from __future__ import annotations

from typing import Any

WRAPPED, BLOCK, SMALL = "__bnb_optimizer_quant_state__", 256, 4096
"""The key of a parameter's moments, the elements that share a scale, and below how many elements they stay in 32 bits."""
_PLAIN = {"weight_decay": 0.0, "lr": 0.005, "initial_lr": 0.01}
_TWO = {"eps": 1e-08, "alpha": 0.0, "t_alpha": None, "t_beta3": None}
OPTIONS: dict[str, dict[str, Any]] = {
    "adamw": {**_PLAIN, **_TWO, "betas": (0.9, 0.999)},
    "ademamix": {**_PLAIN, **_TWO, "betas": (0.9, 0.999, 0.9999), "alpha": 5.0},
    "lion": {**_PLAIN, "betas": (0.9, 0.999), "eps": 0.0},
    "rmsprop": {**_PLAIN, "betas": (0.99, 0), "eps": 1e-08},
}


def of_bitsandbytes(saved: dict[str, Any], kind: str, bits: int, *, wrapped: bool = True) -> dict[str, Any]:
    """What ``kind`` of bitsandbytes saves, in ``bits``; releases before 0.49.2 do not wrap it."""
    state = {}
    for key, kept in saved["state"].items():
        moments = _moments(kept, kind, bits)
        state[key] = {"step": int(kept["step"]), **({WRAPPED: moments} if wrapped else moments)}
    return {
        "state": state,
        "param_groups": [{"params": group["params"], **OPTIONS[kind]} for group in saved["param_groups"]],
    }


def _moments(kept: dict[str, Any], kind: str, bits: int) -> dict[str, Any]:
    import torch

    first, second = kept["exp_avg"], kept["exp_avg_sq"]
    tensors = {"state1": torch.stack([first, first]) if kind == "ademamix" else second if kind == "rmsprop" else first}
    if kind in ("adamw", "ademamix"):
        tensors["state2"] = second
    if bits == 32 or first.numel() < SMALL:
        return tensors
    out: dict[str, Any] = {}
    for name, one in tensors.items():
        number = name[-1]
        values = torch.linspace(-1, 1, 256)
        scale = one.reshape(*one.shape[: one.dim() - 2], -1, BLOCK).abs().amax(-1)
        units = one.reshape(*scale.shape, BLOCK) / scale.unsqueeze(-1)
        codes = ((units + 1) / 2 * 255).round().to(torch.uint8).reshape(one.shape)
        out |= {name: codes, f"qmap{number}": values, f"absmax{number}": scale}
    return out
