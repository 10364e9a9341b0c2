"""Where the cells of a picture stand on the page, in pixels, and what each says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_doctor.picture import STATES, Cell, Picture
from adapter_doctor.render.visible import visible

_LEFT, _TOP, _ROW, _GAP = 10, 26, 22, 3
_WIDEST, _WHOLE, _NARROWEST = 26, 720, 7
"""Pixels: a column at most, all columns together if that leaves each its least."""
_LETTER = 7.0
MOST_ROWS = 400


@dataclass(frozen=True, slots=True)
class Placed:
    """One cell: where it stands, the class of its state, and its description in lines."""

    x: float
    y: float
    row: int
    column: int
    style: str
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of module: its name, where it stands, how wide the base's layers are, and its cells summed up."""

    name: str
    y: float
    base_width: float
    states: tuple[tuple[str, int], ...]
    ranks: str
    norms: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture, ready to be drawn."""

    width: float = 0
    height: float = 0
    left: float = 0
    cell: float = 0
    tall: float = _ROW - _GAP
    cells: tuple[Placed, ...] = ()
    rows: tuple[Row, ...] = ()
    ticks: tuple[tuple[float, int], ...] = ()
    legend: tuple[tuple[str, str, int], ...] = ()
    left_out: int = 0
    title: str = ""


def drawing(picture: Picture) -> Drawing:
    """The drawing of a picture; an empty one has no cells."""
    if not picture.cells:
        return Drawing()
    kinds: dict[str, list[Cell]] = {kind: [] for kind in picture.kinds}
    for cell in picture.cells:
        kinds[cell.kind].append(cell)
    left_out = max(0, len(kinds) - MOST_ROWS)
    kinds = dict(list(kinds.items())[:MOST_ROWS])
    last = max((cell.layer for cell in picture.cells if cell.layer is not None), default=0)
    base = dict(picture.layers)
    columns = min(max(last + 1, *base.values(), 1) if base else last + 1, 2000)
    step = max(_NARROWEST, min(_WIDEST, _WHOLE / columns))
    names = {kind: visible(kind, 60) for kind in kinds}
    left = _LEFT + max(len(name) for name in names.values()) * _LETTER + 8
    placed: list[Placed] = []
    rows: list[Row] = []
    for at, (kind, cells) in enumerate(kinds.items()):
        y = _TOP + at * _ROW
        layers = base.get(kind.partition(".*")[0], 0) if ".*" in kind else 1
        rows.append(_row(names[kind], y, min(layers, columns) * step, cells))
        for cell in cells:
            column = min(cell.layer or 0, columns - 1)
            placed.append(Placed(left + column * step, y, at, column, _style(cell.state), _text(cell)))
    every = next(one for one in (1, 2, 4, 8, 16, 32, 64, 128, 256) if one * step >= 32)
    totals = dict.fromkeys(STATES, 0)
    for cell in picture.cells:
        for state, count in cell.states:
            totals[state] += count
    legend = tuple((state, _style(state), count) for state, count in totals.items() if count)
    title = "Modules by kind and layer: " + ", ".join(f"{count} {state}" for state, _, count in legend)
    return Drawing(
        left + columns * step + 12, _TOP + len(kinds) * _ROW + 6, left, step - min(_GAP, step / 5), _ROW - _GAP,
        tuple(placed), tuple(rows), tuple((left + n * step, n) for n in range(0, columns, every)), legend, left_out, title,
    )  # fmt: skip


def _row(name: str, y: float, base_width: float, cells: list[Cell]) -> Row:
    counts: dict[str, int] = {}
    for cell in cells:
        for state, count in cell.states:
            counts[state] = counts.get(state, 0) + count
    ranks = sorted({cell.rank for cell in cells if cell.rank is not None})
    norms = [cell.norm for cell in cells if cell.norm is not None]
    return Row(
        name, y, base_width, tuple((state, counts[state]) for state in STATES if state in counts),
        ", ".join(map(str, ranks[:5])), f"{min(norms):.3g} to {max(norms):.3g}" if norms else "",
    )  # fmt: skip


def _style(state: str) -> str:
    return state.replace(" ", "-")


def _text(cell: Cell) -> str:
    place = cell.kind if cell.layer is None else cell.kind.replace("*", str(cell.layer), 1)
    total = sum(count for _, count in cell.states)
    what = cell.state if total == 1 else ", ".join(f"{count} of {total} {state}" for state, count in cell.states)
    lines = [f"{place}: {what}"]
    lines += [f"{name} {list(shape)}" for name, shape in cell.tensors[:8]]
    numbers = [f"rank {cell.rank}"] if cell.rank is not None else []
    numbers += [f"scaling {cell.scaling:.4g}"] if cell.scaling is not None else []
    numbers += [f"norm of the update {cell.norm:.4g}"] if cell.norm is not None else []
    return visible("\n".join([*lines, *([", ".join(numbers)] if numbers else [])]), 1000)
