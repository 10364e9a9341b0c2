"""What a tensor of the mended copy is made of: a tensor of the original as it is, or a rearrangement of such."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from adapter_doctor.facts import Shape, TensorInfo


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor of the original, byte by byte."""

    info: TensorInfo

    @property
    def dtype(self) -> str:
        """As safetensors calls it."""
        return self.info.dtype

    @property
    def shape(self) -> Shape:
        """Its shape."""
        return self.info.shape


@dataclass(frozen=True, slots=True)
class Permuted:
    """``of`` seen in the shape ``view``, its axes put into the order ``axes``, and the result read as ``shape``."""

    of: Recipe
    view: Shape
    axes: tuple[int, ...]
    shape: Shape

    @property
    def dtype(self) -> str:
        """As safetensors calls it."""
        return self.of.dtype


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows ``start`` to ``stop`` of a tensor."""

    of: Recipe
    start: int
    stop: int

    @property
    def dtype(self) -> str:
        """As safetensors calls it."""
        return self.of.dtype

    @property
    def shape(self) -> Shape:
        """Its shape."""
        return (self.stop - self.start, *self.of.shape[1:])


@dataclass(frozen=True, slots=True)
class Joined:
    """Tensors one behind the other along an axis."""

    parts: tuple[Recipe, ...]
    axis: int = 0

    @property
    def dtype(self) -> str:
        """As safetensors calls it."""
        return self.parts[0].dtype

    @property
    def shape(self) -> Shape:
        """Its shape."""
        first = list(self.parts[0].shape)
        first[self.axis] = sum(part.shape[self.axis] for part in self.parts)
        return tuple(first)


@dataclass(frozen=True, slots=True)
class Diagonal:
    """Matrices along the diagonal of one, zero elsewhere."""

    parts: tuple[Recipe, ...]

    @property
    def dtype(self) -> str:
        """As safetensors calls it."""
        return self.parts[0].dtype

    @property
    def shape(self) -> Shape:
        """Its shape."""
        return sum(part.shape[0] for part in self.parts), sum(part.shape[1] for part in self.parts)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A tensor in which every value that is NaN or infinite is zero."""

    of: Recipe

    @property
    def dtype(self) -> str:
        """As safetensors calls it."""
        return self.of.dtype

    @property
    def shape(self) -> Shape:
        """Its shape."""
        return self.of.shape


@dataclass(frozen=True, slots=True)
class Scaled:
    """Every value times ``factor``, in F32: half precision would round what was exact."""

    of: Recipe
    factor: float

    @property
    def dtype(self) -> str:
        """As safetensors calls it."""
        return "F32"

    @property
    def shape(self) -> Shape:
        """Its shape."""
        return self.of.shape


@dataclass(frozen=True, slots=True)
class Zeros:
    """A tensor of nothing but zeros."""

    dtype: str
    shape: Shape


Recipe: TypeAlias = Kept | Permuted | Rows | Joined | Diagonal | Cleaned | Scaled | Zeros


def transposed(matrix: Recipe) -> Recipe:
    """The matrix with rows for columns."""
    if isinstance(matrix, Permuted) and matrix.axes == (1, 0) and matrix.view == matrix.of.shape:
        return matrix.of
    rows, columns = matrix.shape
    return Permuted(matrix, (rows, columns), (1, 0), (columns, rows))


def described(recipe: Recipe) -> TensorInfo:
    """The tensor as a file would describe it; the bytes are named only where they are those of the original."""
    return recipe.info if isinstance(recipe, Kept) else TensorInfo(recipe.dtype, recipe.shape)


def leaves(recipe: Recipe) -> tuple[TensorInfo, ...]:
    """The tensors of the original that go into it."""
    if isinstance(recipe, Kept):
        return (recipe.info,)
    if isinstance(recipe, Zeros):
        return ()
    if isinstance(recipe, (Joined, Diagonal)):
        return tuple(info for part in recipe.parts for info in leaves(part))
    return leaves(recipe.of)


def count(recipe: Recipe) -> int:
    """Number of elements."""
    return prod(recipe.shape)
