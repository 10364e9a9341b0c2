"""What recipes make of bytes is what torch makes of the tensors, chunk by chunk and for every width."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from adapter_doctor.formats.safetensors_header import header_length, parse_header
from adapter_doctor.repair import values
from adapter_doctor.repair.recipes import Cleaned, Diagonal, Joined, Kept, Permuted, Recipe, Rows, transposed
from adapter_doctor.repair.values import Reader

WIDTHS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn, "I8": torch.int8}  # fmt: skip


def kept(folder: Path, **tensors: torch.Tensor) -> dict[str, Recipe]:
    save_file(tensors, folder / "one")
    raw = (folder / "one").read_bytes()
    length = header_length(raw[:64], len(raw))
    return {name: Kept(info) for name, info in parse_header(raw[8 : 8 + length], len(raw), "one").tensors.items()}


def made(folder: Path, *recipes: Recipe) -> bytes:
    with Reader({"one": folder / "one"}) as reader, (folder / "out").open("wb") as out:
        reader.copy(list(recipes), out)
    return (folder / "out").read_bytes()


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8).tolist())


@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("shape", [(3, 5), (8, 16), (300, 130), (1, 7), (129, 264)])
def test_a_matrix_is_transposed_in_every_width(
    dtype: str, shape: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "CHUNK", 4096)
    matrix = torch.randn(shape).mul(20).to(WIDTHS[dtype])
    (recipe,) = kept(tmp_path, matrix=matrix).values()

    assert made(tmp_path, transposed(recipe)) == raw(matrix.t())
    assert transposed(transposed(recipe)) == recipe


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), heads=st.integers(1, 4), half=st.integers(1, 4), rank=st.integers(1, 5))
def test_recipes_do_as_torch_does(
    tmp_path_factory: pytest.TempPathFactory, seed: int, heads: int, half: int, rank: int
) -> None:
    folder = tmp_path_factory.mktemp("recipes")
    torch.manual_seed(seed)
    rows = heads * 2 * half
    one, two = torch.randn(rows, rank), torch.randn(rows + 1, rank)
    recipes = kept(folder, one=one, two=two)
    first, second = recipes["one"], recipes["two"]
    cases: list[tuple[Recipe, torch.Tensor]] = [
        (first, one),
        (Rows(second, 1, rows), two[1:rows]),
        (Joined((first, second)), torch.cat([one, two])),
        (Joined((first, Rows(second, 1, rows + 1)), 1), torch.cat([one, two[1:]], 1)),
        (Diagonal((first, second)), torch.block_diag(one, two)),
        (Permuted(first, (heads, half, 2, rank), (0, 2, 1, 3), (rows, rank)),
         one.view(heads, half, 2, rank).transpose(1, 2).reshape(rows, rank)),
        (transposed(Rows(transposed(second), 0, rank)), two),
        (Rows(transposed(first), 0, rank), one.t()),
    ]  # fmt: skip

    for recipe, expected in cases:
        assert recipe.shape == tuple(expected.shape)
        assert recipe.dtype == "F32"
    assert made(folder, *(recipe for recipe, _ in cases)) == b"".join(raw(expected) for _, expected in cases)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F64", "F8_E4M3"])
def test_nan_and_infinity_become_zero_and_nothing_else_changes(dtype: str, tmp_path: Path) -> None:
    odd = [float("nan"), 1.5, -2.0, 0.0] + ([] if dtype == "F8_E4M3" else [float("inf"), -float("inf")])
    tensor = torch.tensor(odd, dtype=torch.float32).to(WIDTHS[dtype])
    (recipe,) = kept(tmp_path, tensor=tensor).values()

    expected = torch.tensor([value if abs(value) < 10 else 0 for value in odd]).to(WIDTHS[dtype])
    assert made(tmp_path, Cleaned(recipe)) == raw(expected)
