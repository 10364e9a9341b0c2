"""What is said of tensor values agrees with torch, for every float format, and takes no memory that grows."""

from __future__ import annotations

import io
import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_doctor.facts import AdapterTensors, ValueSummary
from adapter_doctor.formats.bit_patterns import PATTERNS
from adapter_doctor.formats.safetensors_header import header_length, parse_header
from adapter_doctor.formats.torch_pickle import read_listing
from adapter_doctor.gather.values import CHUNK, compare_with_base, gather_values

FLOATS: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
INTEGERS: dict[int, torch.dtype] = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
NAME = "adapter_model.safetensors"


def tensors_of(path: Path) -> AdapterTensors:
    data = path.read_bytes()
    if path.suffix == ".bin":
        return AdapterTensors(path.name, read_listing(io.BytesIO(data), len(data), path.name).tensors())
    length = header_length(data[:64], len(data))
    return AdapterTensors(path.name, parse_header(data[8 : 8 + length], len(data), path.name).tensors)


def summaries(folder: Path, **tensors: torch.Tensor) -> dict[str, ValueSummary]:
    path = folder / NAME
    safetensors.torch.save_file(tensors, path)
    return dict(gather_values(path, tensors_of(path)).summaries)


def summary(folder: Path, tensor: torch.Tensor) -> ValueSummary:
    return summaries(folder, x=tensor)["x"]


def by_torch(tensor: torch.Tensor) -> ValueSummary:
    wide = tensor.to(torch.float64)
    finite = wide[torch.isfinite(wide)]
    return ValueSummary(
        peak=float(finite.abs().max()) if finite.numel() else 0.0,
        nan=int(torch.isnan(wide).sum()),
        infinite=int(torch.isinf(wide).sum()),
        constant_one=bool(wide.numel()) and bool((wide == 1).all()),
    )


def of_bits(dtype: torch.dtype, *patterns: int) -> torch.Tensor:
    """A tensor of these bit patterns."""
    width = torch.empty(0, dtype=dtype).element_size()
    signed = [one - (1 << 8 * width) if one >> (8 * width - 1) else one for one in patterns]
    return torch.tensor(signed, dtype=INTEGERS[width]).view(dtype)


def edges(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors whose values lie at the borders of a float format."""
    width = torch.empty(0, dtype=dtype).element_size()
    sign, top = 1 << (8 * width - 1), (1 << (8 * width - 1)) - 1
    found = {
        "zero": of_bits(dtype, 0, 0, 0),
        "negative zero": of_bits(dtype, sign, 0, sign),
        "least subnormal": of_bits(dtype, 0, 1),
        "negative subnormal": of_bits(dtype, sign | 1, 0),
        "largest subnormal": of_bits(dtype, 3, 2, 1, 0),
        "one": torch.ones(5).to(dtype),
        "minus one": torch.full((5,), -1.0).to(dtype),
        "almost ones": torch.tensor([1.0, 1.0, 1.5]).to(dtype),
        "ones and NaN": torch.tensor([1.0, math.nan]).to(dtype),
        "NaN": torch.tensor([0.0, math.nan, 2.0, math.nan]).to(dtype),
        "only NaN": torch.full((3,), math.nan).to(dtype),
        "NaN with every bit": of_bits(dtype, top, top | sign),
        "greatest": torch.tensor([torch.finfo(dtype).max, 1.0], dtype=torch.float64).to(dtype),
        "least": torch.tensor([torch.finfo(dtype).min, 1.0], dtype=torch.float64).to(dtype),
        "smallest normal": torch.tensor([torch.finfo(dtype).tiny], dtype=torch.float64).to(dtype),
        "usual": torch.tensor([0.25, -3.5, 1.75, 0.0]).to(dtype),
    }
    if dtype is not torch.float8_e4m3fn:  # which has no infinity
        found |= {
            "infinity": torch.tensor([1.0, math.inf, -math.inf]).to(dtype),
            "only infinity": torch.full((2,), -math.inf).to(dtype),
            "infinity and NaN": torch.tensor([math.nan, math.inf, 0.5, -math.inf, math.nan]).to(dtype),
        }
    return found


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(dtype, name) for dtype in FLOATS for name in edges(FLOATS[dtype])],
    ids=lambda value: str(value),
)
def test_values_at_the_borders_of_a_format_are_what_torch_says(dtype: str, name: str, tmp_path: Path) -> None:
    tensor = edges(FLOATS[dtype])[name]

    assert summary(tmp_path, tensor) == by_torch(tensor)


@pytest.mark.parametrize("dtype", [name for name in FLOATS if FLOATS[name].itemsize <= 2])
def test_every_pattern_of_a_narrow_format_is_read_as_torch_reads_it(dtype: str, tmp_path: Path) -> None:
    kind = FLOATS[dtype]
    count = 1 << 8 * kind.itemsize
    whole = of_bits(kind, *range(count))
    step = max(1, count // 256)
    single = {f"{pattern}": of_bits(kind, pattern) for pattern in range(0, count, step)}

    assert summary(tmp_path, whole) == by_torch(whole)
    assert summaries(tmp_path, **single) == {name: by_torch(tensor) for name, tensor in single.items()}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scale", [1e-6, 0.02, 1.0, 30.0])
def test_healthy_weights_are_neither_zero_nor_infinite(dtype: str, scale: float, tmp_path: Path) -> None:
    tensor = (torch.randn(64, 33, generator=torch.Generator().manual_seed(3)) * scale).to(FLOATS[dtype])
    found = summary(tmp_path, tensor)

    assert found == by_torch(tensor)
    assert (found.nan, found.infinite, found.constant_one) == (0, 0, False)
    assert found.zero == (not tensor.to(torch.float32).any())


@settings(deadline=None, derandomize=True, database=None, max_examples=60)
@given(
    st.sampled_from(sorted(FLOATS)),
    st.lists(st.floats(width=16) | st.sampled_from([0.0, -0.0, 1.0, math.nan]), min_size=1, max_size=20),
)
def test_any_values_are_what_torch_says(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, numbers: list[float]
) -> None:
    tensor = torch.tensor(numbers, dtype=torch.float64).to(FLOATS[dtype])

    assert summary(tmp_path_factory.mktemp("values"), tensor) == by_torch(tensor)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("extra", [-1, 0, 1, 7])
def test_one_odd_value_is_found_wherever_it_lies_across_chunks(dtype: str, extra: int, tmp_path: Path) -> None:
    kind = FLOATS[dtype]
    count = 2 * CHUNK // kind.itemsize + extra
    places = {0, count // 2 - 1, count // 2, count // 2 + 1, count - 1}
    for place in places:
        tensor = torch.zeros(count, dtype=kind)
        # Something of odd length in front, so that the chunks do not begin on a page.
        front = torch.ones(13, dtype=torch.uint8)
        tensor[place] = math.nan
        found = summaries(tmp_path, a_front=front, x=tensor)["x"]
        assert (found.nan, found.infinite, found.peak, found.zero) == (1, 0, 0.0, False), place
        tensor[place] = -1.5
        found = summaries(tmp_path, a_front=front, x=tensor)["x"]
        assert (found.nan, found.infinite, found.peak, found.zero) == (0, 0, 1.5, False), place


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_tensor_of_zeros_or_ones_is_known_to_be_so(dtype: str, tmp_path: Path) -> None:
    count = 3 * CHUNK // FLOATS[dtype].itemsize + 5
    found = summaries(tmp_path, zero=torch.zeros(count, dtype=FLOATS[dtype]), one=torch.ones(count).to(FLOATS[dtype]))

    assert (found["zero"].zero, found["one"].constant_one, found["one"].zero) == (True, True, False)


def test_ones_up_to_the_last_value_are_not_all_ones(tmp_path: Path) -> None:
    tensor = torch.ones(CHUNK // 4 + 9)
    tensor[-1] = 0.5

    assert summary(tmp_path, tensor) == ValueSummary(1.0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool], ids=str)
def test_integers_are_zero_or_not(dtype: torch.dtype, tmp_path: Path) -> None:
    found = summaries(tmp_path, zero=torch.zeros(9, dtype=dtype), some=torch.tensor([0, 1, 0]).to(dtype))

    assert found["zero"].zero
    assert found["some"] == ValueSummary(1.0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8], ids=str)
def test_magnitude_of_a_negative_integer_is_its_own(dtype: torch.dtype, tmp_path: Path) -> None:
    assert summary(tmp_path, torch.tensor([-3, 2], dtype=dtype)).peak == 3.0


def test_empty_tensor_and_scalar_have_summaries(tmp_path: Path) -> None:
    found = summaries(tmp_path, empty=torch.empty(0, 4), scalar=torch.tensor(-2.5), half=torch.tensor(1.0).half())

    assert (found["empty"].nan, found["empty"].infinite, found["empty"].constant_one) == (0, 0, False)
    assert (found["scalar"], found["half"]) == (ValueSummary(2.5), ValueSummary(1.0, constant_one=True))


@pytest.mark.parametrize("dtype", [name for name in FLOATS if not name.startswith("F8")])
def test_values_in_a_torch_file_are_read_as_those_in_safetensors(dtype: str, tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in edges(FLOATS[dtype]).items()}
    tensors["parameter"] = torch.nn.Parameter(torch.randn(3, 5).to(FLOATS[dtype]))
    path = tmp_path / "adapter_model.bin"
    torch.save(tensors, path)

    found = gather_values(path, tensors_of(path)).summaries

    assert dict(found) == {name: by_torch(tensor.detach()) for name, tensor in tensors.items()}


def test_values_of_tensors_in_one_storage_are_their_own(tmp_path: Path) -> None:
    whole = torch.tensor([0.0, 0.0, math.nan, 7.0])
    path = tmp_path / "adapter_model.bin"
    torch.save({"front": whole[:2], "back": whole[2:], "turned": whole.view(2, 2).T}, path)

    found = gather_values(path, tensors_of(path)).summaries

    assert dict(found) == {"front": ValueSummary(0.0), "back": ValueSummary(7.0, 1), "turned": ValueSummary(7.0, 1)}


def test_values_of_the_legacy_format_are_left_out_and_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save({"x": torch.ones(3)}, path, _use_new_zipfile_serialization=False)

    assert dict(gather_values(path, tensors_of(path)).summaries) in ({}, {"x": ValueSummary(1.0, constant_one=True)})


def test_file_that_shrank_after_its_header_was_read_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / NAME
    safetensors.torch.save_file({"a": torch.ones(4), "b": torch.ones(400)}, path)
    tensors = tensors_of(path)
    path.write_bytes(path.read_bytes()[:-100])

    assert dict(gather_values(path, tensors).summaries) == {"a": ValueSummary(1.0, constant_one=True)}
    path.write_bytes(b"")
    assert dict(gather_values(path, tensors).summaries) == {}


# --------------------------------------------------------------------------------------------- copies of the base


def test_copies_of_base_weights_are_told_from_changed_ones(tmp_path: Path) -> None:
    from adapter_doctor.facts import BaseCheckpoint

    base, adapter = tmp_path / "model.safetensors", tmp_path / NAME
    large = torch.randn(CHUNK // 4 + 3)
    changed = large.clone()
    changed[-1] += 1
    safetensors.torch.save_file({name: large.clone() for name in ("same", "changed", "cast", "shape")}, base)
    safetensors.torch.save_file(
        {"same": large, "changed": changed, "cast": large.half(), "shape": large[None].clone(), "nowhere": large + 1},
        adapter,
    )
    copies, names = tensors_of(adapter).tensors, {key: key for key in ("same", "changed", "cast", "shape")}

    found = compare_with_base(adapter, copies, tmp_path, BaseCheckpoint(tensors_of(base).tensors), names)

    assert [sorted(part) for part in (found.same, found.different, found.unread)] == [
        ["same"], ["changed"], ["cast", "nowhere", "shape"],
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------- memory, time


def sparse(path: Path, dtype: str, width: int, size: int) -> None:
    """A safetensors file of ``size`` bytes of zeros in two tensors, which takes no room on the disk."""
    half = size // 2
    header = json.dumps(
        {
            "a": {"dtype": dtype, "shape": [half // width], "data_offsets": [0, half]},
            "b": {"dtype": dtype, "shape": [half // width], "data_offsets": [half, 2 * half]},
        }
    ).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 2 * half)


MEASURE = """
import json, re, sys, threading, time
from pathlib import Path
from adapter_doctor.facts import AdapterTensors
from adapter_doctor.formats.safetensors_header import header_length, parse_header
from adapter_doctor.gather.values import gather_values
import numpy
numpy.arange(10).max()

def memory():
    text = Path("/proc/self/status").read_text()
    return sum(int(one) for one in re.findall(r"Rss(?:Anon|File):\\s+(\\d+)", text)) // 1024

path = Path(sys.argv[1])
size = path.stat().st_size
with path.open("rb") as file:
    first = file.read(64)
    length = header_length(first, size)
    file.seek(8)
    tensors = AdapterTensors(path.name, parse_header(file.read(length), size, path.name).tensors)
start, peak, on = memory(), 0, True

def watch():
    global peak
    while on:
        peak = max(peak, memory())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
found = gather_values(path, tensors)
on = False
watcher.join()
print(json.dumps({"zero": [one.zero for one in found.summaries.values()], "grown": peak - start}))
"""


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_memory_does_not_grow_with_the_file(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / NAME
    sparse(path, dtype, 4 if dtype == "F32" else 2, 1 << 30)

    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)

    assert found["zero"] == [True, True]
    assert found["grown"] < 60, f"{found['grown']} MB above the start"


def test_memory_does_not_grow_where_much_is_odd(tmp_path: Path) -> None:
    """NaN makes the reader count: what it copies for that must stay within a chunk too."""
    path = tmp_path / NAME
    sparse(path, "BF16", 2, 1 << 28)
    with path.open("r+b") as file:
        file.seek(4096)
        for _ in range(64):
            file.write(b"\xff" * (1 << 20))

    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)

    assert found["zero"] == [False, True]
    assert found["grown"] < 60, f"{found['grown']} MB above the start"


def test_chunks_are_whole_elements_of_every_width() -> None:
    assert [CHUNK % kind.itemsize for kind in FLOATS.values()] == [0] * len(FLOATS)
    assert set(PATTERNS) == set(FLOATS)
