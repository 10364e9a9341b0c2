"""The bytes of a recipe, from memory maps of the original's files and a chunk at a time."""

from __future__ import annotations

import errno
import mmap
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from adapter_doctor.formats.bit_patterns import PATTERNS
from adapter_doctor.formats.safetensors_header import BITS
from adapter_doctor.repair.plan import CannotMend
from adapter_doctor.repair.recipes import Cleaned, Diagonal, Joined, Kept, Permuted, Recipe, Rows, Scaled, Zeros

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

CHUNK = 1 << 23
"""Bytes moved in one go: memory holds a few of these, or for factors put together a few tensors of the result."""
AHEAD = 2
"""Blocks that are put in order beside the one that is being written."""


class Reader:
    """The original's files, open; a context manager. ``paths`` maps the names in :class:`TensorInfo` to files."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths
        self._stack = ExitStack()
        self._files: dict[str, IO[bytes]] = {}
        self._maps: dict[str, mmap.mmap] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def copy(self, recipes: list[Recipe], out: IO[bytes]) -> None:
        """Write the tensors behind each other; what lies side by side in a file is copied in one piece.

        Raises:
            OSError: reading or writing fails.
        """
        pending: tuple[str, int, int] | None = None
        with ThreadPoolExecutor(AHEAD) as threads:  # numpy lets go of the interpreter while it moves elements
            packing: deque[Future[bytes | memoryview]] = deque()
            for recipe in [part for one in recipes for part in _in_rows(one)]:
                if isinstance(recipe, Kept):
                    info = recipe.info
                    if pending is not None and pending[0] == info.file and pending[2] == info.start:
                        pending = (info.file, pending[1], info.end)
                        continue
                    self._write(packing, out, 0)
                    self._copy_range(pending, out)
                    pending = (info.file, info.start, info.end)
                    continue
                self._copy_range(pending, out)
                pending = None
                for rows in self._blocks(recipe):
                    packing.append(threads.submit(_packed, rows))
                    self._write(packing, out, AHEAD)
                self._release()
            self._write(packing, out, 0)
        self._copy_range(pending, out)

    def _write(self, packing: deque[Future[bytes | memoryview]], out: IO[bytes], left: int) -> None:
        """Write the oldest blocks until no more than ``left`` are on their way."""
        while len(packing) > left:
            out.write(packing.popleft().result())

    def _file(self, name: str) -> IO[bytes]:
        if name not in self._files:
            self._files[name] = self._stack.enter_context(self._paths[name].open("rb"))
        return self._files[name]

    def _copy_range(self, span: tuple[str, int, int] | None, out: IO[bytes]) -> None:
        """Bytes from one file to the other inside the system, where it can do that."""
        if span is None:
            return
        name, start, end = span
        source = self._file(name)
        out.flush()
        while start < end:
            size = min(end - start, 1 << 30)
            try:
                done = os.copy_file_range(source.fileno(), out.fileno(), size, start)
            except (AttributeError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in _NO_RANGES:
                    raise
                source.seek(start)
                block = source.read(min(size, CHUNK))
                out.write(block)
                out.flush()
                done = len(block)
            if not done:
                raise OSError(f"{name} ends at {start:,} bytes, expected {end:,}")
            start += done

    def _blocks(self, recipe: Recipe) -> Iterator[Array]:
        """The rows of the tensor, as many together as are moved in one go."""
        whole = self.array(recipe)
        whole = whole if whole.ndim else whole.reshape(1)
        step = max(1, CHUNK // max(1, whole[:1].nbytes) // 8 * 8)
        for start in range(0, len(whole), step):
            yield whole[start : start + step]

    def array(self, recipe: Recipe) -> Array:
        """The tensor's bit patterns, as unsigned integers of its dtype's width; a view of the file where it can be."""
        import numpy as np

        if isinstance(recipe, Kept):
            info = recipe.info
            if not info.count:
                return np.empty(info.shape, _kind(info.dtype))
            flat: Array = np.frombuffer(self._map(info.file), _kind(info.dtype), info.count, info.start)
            return flat.reshape(info.shape)
        if isinstance(recipe, Permuted):
            return self.array(recipe.of).reshape(recipe.view).transpose(recipe.axes).reshape(recipe.shape)
        if isinstance(recipe, Rows):
            of = recipe.of
            if isinstance(of, Permuted) and len(of.view) == 3:  # one of many blocks: the others need not be moved
                blocks = self.array(of.of).reshape(of.view).transpose(of.axes)
                if of.shape == (blocks.shape[0] * blocks.shape[1], blocks.shape[2]):
                    which, begin = divmod(recipe.start, blocks.shape[1])
                    wanted: Array = blocks[which, begin : begin + recipe.stop - recipe.start]
                    if wanted.shape == recipe.shape:
                        return wanted
            return self.array(of)[recipe.start : recipe.stop]
        if isinstance(recipe, Joined):
            return np.concatenate([self.array(part) for part in recipe.parts], recipe.axis)
        if isinstance(recipe, Diagonal):
            out = np.zeros(recipe.shape, _kind(recipe.dtype))
            row = column = 0
            for part in recipe.parts:
                rows, columns = part.shape
                out[row : row + rows, column : column + columns] = self.array(part)
                row, column = row + rows, column + columns
            return out
        if isinstance(recipe, Zeros):
            return np.zeros(recipe.shape, _kind(recipe.dtype))
        if isinstance(recipe, Scaled):
            return (_floats(self.array(recipe.of), recipe.of.dtype) * recipe.factor).astype("<f4").view("<u4")
        assert isinstance(recipe, Cleaned)
        bits = self.array(recipe.of)
        _, mask, first_odd, _ = PATTERNS[recipe.dtype]
        return np.where((bits & bits.dtype.type(mask)) >= first_odd, bits.dtype.type(0), bits)

    def _map(self, name: str) -> mmap.mmap:
        if name not in self._maps:
            self._maps[name] = mmap.mmap(self._file(name).fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[name]

    def _release(self) -> None:
        """Let the system take back the pages read so far; without it a mapped file counts as memory."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for view in self._maps.values():
                view.madvise(mmap.MADV_DONTNEED)


# What the system answers where it cannot copy ranges between these two files; a full disk is not among them.
_NO_RANGES = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}


def _floats(bits: Array, dtype: str) -> Array:
    """The values behind bit patterns, as float64: a product with them is rounded once, when it is stored."""
    import numpy as np

    bits = np.ascontiguousarray(bits)
    if dtype == "BF16":
        return (bits.astype("<u4") << 16).view("<f4").astype("<f8")
    return bits.view({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype("<f8")


def _packed(rows: Array) -> bytes | memoryview:
    """The rows as bytes. A transposed matrix is turned tile by tile: row by row, each element would be a cache miss."""
    import numpy as np

    if rows.ndim != 2 or abs(rows.strides[0]) >= abs(rows.strides[1]):
        return np.ascontiguousarray(rows).tobytes()
    out = np.empty(rows.shape, rows.dtype)
    for top in range(0, len(rows), _TILE):
        for left in range(0, rows.shape[1], _TILE):
            tile = slice(top, top + _TILE), slice(left, left + _TILE)
            out[tile] = rows[tile].T.copy().T  # brought together first: rows a power of two apart share few cache lines
    return out.data.cast("B")


_TILE = 256
"""Rows and columns; measured fastest of 16 to 512, for matrices of 16 to 14,336 rows or columns."""


def _kind(dtype: str) -> str:
    if BITS[dtype] % 8:
        raise CannotMend(f"{dtype} keeps several values in a byte, and is not rearranged here")
    return f"<u{BITS[dtype] // 8}"


def _in_rows(recipe: Recipe) -> Iterator[Recipe]:
    """The pieces of which a tensor consists in the order of its bytes: whole tensors where it is one behind the other."""
    if isinstance(recipe, Joined) and recipe.axis == 0:
        for part in recipe.parts:
            yield from _in_rows(part)
    elif isinstance(recipe, Rows) and isinstance(recipe.of, Kept) and recipe.stop <= recipe.of.info.shape[0] > 0:
        info = recipe.of.info
        width = (info.end - info.start) // info.shape[0]
        start = info.start + recipe.start * width
        yield Kept(replace(info, shape=recipe.shape, start=start, end=info.start + recipe.stop * width))
    else:
        yield recipe
