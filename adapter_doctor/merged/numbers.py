"""Read tensors of any float format as float32, and round float32 as those formats do."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_doctor.facts import TensorInfo
from adapter_doctor.formats.safetensors_header import BITS

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

ULP = {"F64": 2.0**-20, "F32": 2.0**-20, "F16": 2.0**-10, "BF16": 2.0**-7}
"""Spacing of neighbouring numbers relative to their size. For float32 more, to leave room for the order of sums."""
READABLE = frozenset(ULP)


class Tensors:
    """Tensors in the files of one folder, read by rows; ``folder`` holds the files that their infos name."""

    def __init__(self, folder: Path, tensors: Mapping[str, TensorInfo]) -> None:
        self.infos = tensors
        self._folder = folder
        self._maps: dict[str, mmap.mmap] = {}

    def close(self) -> None:
        """Close the files."""
        for one in self._maps.values():
            one.close()
        self._maps.clear()

    def rows(self, info: TensorInfo, start: int = 0, stop: int | None = None) -> Array:
        """Rows ``start`` to ``stop`` as float32 (float64 as it is).

        Raises:
            OSError: the file cannot be read.
        """
        import numpy as np

        bits = self.bits(info, start, stop)
        if info.dtype == "BF16":
            return (bits.astype("<u4") << 16).view("<f4")
        kind = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[info.dtype]
        return bits.view(kind) if info.dtype in ("F32", "F64") else bits.view(kind).astype(np.float32)

    def bits(self, info: TensorInfo, start: int = 0, stop: int | None = None) -> Array:
        """The bit patterns of rows, copied out of the file's map, whose pages are let go again."""
        import numpy as np

        view = self._view(info.file)
        rows = info.shape[0] if info.shape else 1
        stop = rows if stop is None else min(stop, rows)
        width = info.count // max(rows, 1)
        kind = f"<u{BITS[info.dtype] // 8}"
        begin = info.start + start * width * BITS[info.dtype] // 8
        flat: Array = np.frombuffer(view, kind, (stop - start) * width, begin).copy()
        if hasattr(mmap, "MADV_DONTNEED"):
            page = begin - begin % mmap.PAGESIZE
            view.madvise(mmap.MADV_DONTNEED, page, min(len(view) - page, flat.nbytes + mmap.PAGESIZE))
        return flat.reshape((stop - start, *info.shape[1:]) if info.shape else ())

    def _view(self, name: str) -> mmap.mmap:
        if name not in self._maps:
            with (self._folder / name).open("rb") as file:  # the map outlives it
                self._maps[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[name]


def rounded(values: Array, dtype: str) -> Array:
    """float32 values as they are after a cast to ``dtype`` (round to nearest, ties to even) and back."""
    import numpy as np

    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        bits = values.astype(np.float32).view("<u4").astype("<u8")
        values = (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u4") << 16).view("<f4")
    return values


def held_as(values: Array, dtype: str) -> str:
    """The narrowest format that holds the values: a merge done in bfloat16 and saved in float32 is on bfloat16's grid."""
    import numpy as np

    if dtype != "F32" or not values.size:
        return dtype
    bits = values.view("<u4")
    if not (bits & 0xFFFF).any():
        return "BF16"
    with np.errstate(over="ignore"):
        return "F16" if np.array_equal(values.astype(np.float16).astype(np.float32), values) else dtype
