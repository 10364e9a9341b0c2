"""Gather how large the updates of a LoRA adapter are, module by module."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_doctor.facts import AdapterConfig, AdapterTensors, Facts, Missing, TensorInfo, UpdateNorms
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.formats.declared_ranks import scaling_of
from adapter_doctor.sources import Source

if TYPE_CHECKING:
    import numpy as np

UNASKED = 100_000_000
"""Bytes of weights up to which norms are computed without being asked for: a fraction of a second."""
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def with_norms(source: Source, facts: Facts, wanted: bool | None) -> Facts:
    """``facts`` with the norms, where they are ``wanted`` and the weights are on this disk; None wants those of small files."""
    config, tensors = facts.get(AdapterConfig), facts.get(AdapterTensors)
    if isinstance(config, Missing) or isinstance(tensors, Missing) or config.peft_type != "LORA" or wanted is False:
        return facts
    path = source.path(tensors.file)
    try:
        if path is None or (wanted is None and path.stat().st_size > UNASKED):
            return facts
        return facts.adding(gather_norms(path, config, tensors))
    except (OSError, ValueError):  # that the file cannot be read, its own rules tell
        return facts


def gather_norms(path: Path, config: AdapterConfig, tensors: AdapterTensors) -> UpdateNorms:
    """The Frobenius norm of scaling · B A for each module with a plain pair of matrices; none of the B A is built.

    Raises:
        OSError: the file cannot be mapped.
    """
    pairs: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.tensors.items():
        parsed = parse(name)
        if parsed is not None and parsed.parameter in ("lora_A", "lora_B") and info.dtype in _DTYPES:
            pairs.setdefault(parsed.module, {})[parsed.parameter] = info
    found: dict[str, float] = {}
    if path.stat().st_size == 0:
        return UpdateNorms({})
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        for module, pair in pairs.items():
            if len(pair) == 2 and all(0 < one.start <= one.end <= len(view) for one in pair.values()):
                norm = _norm(view, pair["lora_A"], pair["lora_B"])
                try:
                    found[module] = norm * scaling_of(config, module)
                except (TypeError, ValueError):  # what is wrong with the config, its rules tell
                    return UpdateNorms({})
    return UpdateNorms({module: norm for module, norm in found.items() if norm == norm and norm != float("inf")})


def _norm(view: mmap.mmap, first: TensorInfo, second: TensorInfo) -> float:
    """‖B A‖, from the two rank × rank products: ‖B A‖² = ⟨Bᵀ B, A Aᵀ⟩."""
    import numpy as np

    rank = first.shape[0] if first.shape else 0
    if not rank or not second.shape or rank * second.shape[0] != second.count:
        return float("nan")
    with np.errstate(all="ignore"):
        a = _values(view, first).reshape(rank, -1)
        b = _values(view, second).reshape(-1, rank)
        square = ((b.T @ b).astype("f8") * (a @ a.T).astype("f8")).sum()
        return float(np.sqrt(np.maximum(square, 0.0)))  # rounding may leave less than nothing


def _values(view: mmap.mmap, info: TensorInfo) -> np.ndarray[Any, Any]:
    import numpy as np

    raw: np.ndarray[Any, Any] = np.frombuffer(view, _DTYPES[info.dtype], info.count, info.start)
    if info.dtype == "BF16":
        return (raw.astype("<u4") << 16).view("<f4")
    return raw.astype("<f4")
