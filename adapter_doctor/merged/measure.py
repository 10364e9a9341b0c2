"""Hold a merged tensor against base plus update, a block of rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from adapter_doctor.facts import TensorInfo
from adapter_doctor.merged.numbers import ULP, Tensors, held_as, rounded
from adapter_doctor.merged.updates import Update

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

BLOCK = 1 << 20
"""Elements looked at in one go: some ten float32 arrays of this size are in memory at once."""
Fate = Literal["merged", "base", "twice", "scaled", "elsewhere", "vanished"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What became of one update.

    ``share`` is how much of the update is in the merged tensor: the projection of (merged - base) on the change that
    the update makes, both rounded to the merged tensor's own format. 1 is a merge, 0 the base, 2 a merge done twice.
    ``off`` is the fraction of elements that differ from base plus update by more than rounding explains, ``beyond`` the
    part of (merged - base), in squares, that points elsewhere than the update, and ``vanished`` the fraction of
    elements whose update is smaller than the format can hold.
    """

    share: float
    off: float
    beyond: float
    vanished: float

    @property
    def fate(self) -> Fate:
        """The reading of these numbers."""
        if self.vanished == 1:
            return "vanished"
        if abs(self.share - 1) <= 0.02 and self.off <= 0.001:
            return "merged"
        if abs(self.share) <= 0.02:
            return "base"
        if self.beyond <= 0.25 and abs(self.share - 1) > 0.05:
            return "twice" if abs(self.share - 2) <= 0.05 else "scaled"
        return "elsewhere"


def measure(update: Update, adapter: Tensors, base: Tensors, merged: Tensors, info: TensorInfo) -> Measured:
    """The fate of one update in the merged tensor ``info``.

    Rounding is reproduced, not guessed at: a base value in bfloat16 swallows an update of less than half its spacing,
    so base plus update is rounded to the merged tensor's format before the two are compared. What is left to tolerate
    is the order of the roundings: PEFT rounds the update, then the sum.
    """
    import numpy as np

    down, up = adapter.rows(update.down), adapter.rows(update.up)
    left, right = (up, down) if update.kind == "linear" else (np.ascontiguousarray(down.T), np.ascontiguousarray(up.T))
    lengths = None if update.magnitude is None else adapter.rows(update.magnitude).reshape(-1)
    there = base.infos[update.tensor]
    rows, columns = there.shape
    step = max(1, BLOCK // max(1, columns))
    with_change = change_change = moved_moved = 0.0
    off = vanished = 0
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        weight = base.rows(there, start, stop)
        delta = (left[start:stop] @ right) * np.float32(update.scaling)
        whole = weight + delta
        if lengths is not None:
            whole *= (lengths[start:stop] / np.linalg.norm(whole, axis=1))[:, None]
            delta = whole - weight
        found = merged.rows(info, start, stop)
        dtype = held_as(np.ascontiguousarray(found), info.dtype)
        plain = rounded(weight, dtype)
        change, moved = rounded(whole, dtype) - plain, found - plain
        with_change += _dot(moved, change)
        change_change += _dot(change, change)
        room = ULP[dtype] * (np.abs(whole) + 2 * np.abs(delta)) + _SMALLEST[dtype]
        off += int(np.count_nonzero(~(np.abs(moved - change) <= room)))
        vanished += int(np.count_nonzero(change == 0))
        moved_moved += _dot(moved, moved)
    count = rows * columns
    if not change_change:
        return Measured(0.0, off / max(count, 1), 0.0, 1.0)
    share = with_change / change_change
    beyond = max(0.0, moved_moved - share * with_change) / max(moved_moved, 1e-30)
    return Measured(share, off / count, beyond, vanished / count)


_SMALLEST = {"F64": 1e-30, "F32": 1e-30, "F16": 2.0**-23, "BF16": 1e-30}


def _dot(one: Array, other: Array) -> float:
    import numpy as np

    return float(np.einsum("ij,ij->", one, other, dtype=np.float64, optimize=False))


def equal(one: Tensors, first: TensorInfo, two: Tensors, second: TensorInfo) -> bool:
    """Whether two tensors hold the same values, up to the rounding to the second's format."""
    import numpy as np

    if first.shape != second.shape:
        return False
    rows = first.shape[0] if first.shape else 1
    step = max(1, BLOCK // max(1, first.count // max(rows, 1)))
    for start in range(0, rows, step):
        if first.dtype == second.dtype:
            same = np.array_equal(one.bits(first, start, start + step), two.bits(second, start, start + step))
        else:
            left, right = one.rows(first, start, start + step), two.rows(second, start, start + step)
            same = bool((np.abs(rounded(left, second.dtype) - right) <= ULP[second.dtype] * np.abs(left)).all())
        if not same:
            return False
    return True
