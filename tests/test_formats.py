"""Readers of bytes and names, against the libraries that write them, and against input that was made to harm."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import re
import struct
import time
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors
import safetensors.torch
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_doctor.facts import AdapterConfig, TensorInfo
from adapter_doctor.formats import bounded_json, torch_pickle
from adapter_doctor.formats.adapter_keys import PREFIX, adapter_name, parse
from adapter_doctor.formats.bounded_json import BadJson, parse_object
from adapter_doctor.formats.declared_ranks import rank_of, scaling_of
from adapter_doctor.formats.patterns import BadPattern, matching, pattern_key
from adapter_doctor.formats.safetensors_header import BITS, BadHeader, Header, header_length, parse_header
from adapter_doctor.formats.torch_pickle import BadPickle, Listing, read_listing

steady = settings(deadline=None, derandomize=True, database=None, max_examples=100)


# ---------------------------------------------------------------------------------------------------------- JSON


def test_json_is_read_as_python_reads_it() -> None:
    text = '{"r": 8, "name": "naïve \\u00e9 \\ud83d\\ude00", "list": [1, {"deep": [true, null, 1.5e3]}], "empty": {}}'

    assert parse_object(text.encode()) == json.loads(text)


def test_json_may_hold_brackets_and_quotes_in_its_strings() -> None:
    text = json.dumps({"target_modules": "[" * 500 + '\\"{"' + "(" * 500, "\\": '"'})

    assert parse_object(text.encode()) == json.loads(text)


def test_json_of_exactly_the_greatest_size_and_depth_is_read() -> None:
    deep = '{"a":' * bounded_json.MAX_DEPTH + "1" + "}" * bounded_json.MAX_DEPTH
    padded = b'{"a": 1}'.ljust(100)

    assert parse_object(deep.encode()) == json.loads(deep)
    assert parse_object(padded, 100) == {"a": 1}


def test_json_may_be_wide_without_being_deep() -> None:
    assert len(parse_object(json.dumps({str(n): [{}] for n in range(5000)}).encode())) == 5000


def test_not_a_number_is_let_through_as_peft_reads_it() -> None:
    value = parse_object(b'{"a": NaN, "b": -Infinity}')

    assert str(value) == "{'a': nan, 'b': -inf}"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "is empty", id="no byte"),
        pytest.param(b" \n\t ", "is empty", id="blanks"),
        pytest.param(b"[1, 2]", "holds a JSON array, not an object", id="array"),
        pytest.param(b'"text"', "holds a JSON string, not an object", id="string"),
        pytest.param(b"3", "holds a JSON number, not an object", id="number"),
        pytest.param(b"NaN", "holds a JSON number, not an object", id="no number"),
        pytest.param(b"true", "holds a JSON boolean, not an object", id="boolean"),
        pytest.param(b"null", "holds a JSON null, not an object", id="null"),
        pytest.param(b'{"a" 1}', "is not JSON: Expecting ':' delimiter at line 1, column 6", id="no colon"),
        pytest.param(b'{"a": ', "is not JSON: Expecting value at line 1, column 7", id="cut off"),
        pytest.param("{'a': 'é'}".encode("latin-1"), "is not UTF-8: byte 0xe9 at offset 7", id="latin-1"),
        pytest.param(b"\x80\x04}.", "is not UTF-8: byte 0x80 at offset 0", id="pickle"),
    ],
)
def test_what_is_no_json_object_is_told_apart(data: bytes, says: str) -> None:
    with pytest.raises(BadJson) as error:
        parse_object(data)

    assert str(error.value) == says


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le-bom"])
def test_byte_order_mark_is_named(encoding: str) -> None:
    data = b"\xff\xfe" + '{"a": 1}'.encode("utf-16-le") if encoding == "utf-16-le-bom" else '{"a": 1}'.encode(encoding)

    with pytest.raises(BadJson, match="begins with a byte order mark"):
        parse_object(data)


@pytest.mark.parametrize("unit", ['{"a":', "["])
def test_nesting_of_ten_thousand_levels_is_refused_at_once(unit: str) -> None:
    began = time.process_time()

    with pytest.raises(BadJson, match="is nested more than 100 levels deep"):
        parse_object((unit * 10_000).encode())

    assert time.process_time() - began < 1


def test_fifty_megabytes_are_refused_unread() -> None:
    began = time.process_time()

    with pytest.raises(BadJson, match="is 50,000,000 bytes, more than the 10,000,000 that are read"):
        parse_object(b" " * 50_000_000)

    assert time.process_time() - began < 1


def test_integer_of_five_thousand_digits_is_refused() -> None:
    with pytest.raises(BadJson, match="cannot be read"):
        parse_object(b'{"r": ' + b"9" * 5000 + b"}")


@steady
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_json_reader_raises_nothing_but_bad_json(data: bytes) -> None:
    with contextlib.suppress(BadJson):
        assert isinstance(parse_object(data), dict)


# --------------------------------------------------------------------------------------------------- safetensors


def header_of(data: bytes) -> Header:
    length = header_length(data[:64], len(data))
    return parse_header(data[8 : 8 + length], len(data), "f")


def with_header(header: object, body: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def library_reads(data: bytes) -> bool:
    try:
        safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except Exception:
        return False
    return True


TORCH_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64",
}  # fmt: skip


def some_tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(str(dtype)))
    return (torch.rand(*shape, generator=generator) * 100).to(dtype)


def bytes_of(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor in the order of its elements."""
    flat = tensor.detach().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""


EVERYTHING: dict[str, torch.Tensor] = {
    **{f"all.{name}": some_tensor(dtype, 3, 5) for dtype, name in TORCH_NAMES.items()},
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0),
    "empty.rows": torch.empty(0, 7, dtype=torch.bfloat16),
    "empty.middle": torch.empty(4, 0, 2, dtype=torch.float8_e5m2),
    "naïve “name”\n": torch.ones(1),
}


def test_safetensors_listing_agrees_with_the_library(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    safetensors.torch.save_file(EVERYTHING, path, metadata={"format": "pt", "note": "é"})
    data = path.read_bytes()
    header = header_of(data)

    assert header.metadata == {"format": "pt", "note": "é"}
    with safetensors.safe_open(path, "pt") as file:
        assert set(header.tensors) == set(file.keys()) == set(EVERYTHING)
        for name, info in header.tensors.items():
            part = file.get_slice(name)
            assert (info.dtype, list(info.shape)) == (part.get_dtype(), part.get_shape())
            assert data[info.start : info.end] == bytes_of(EVERYTHING[name]), name


def test_safetensors_without_tensors_or_metadata_is_read() -> None:
    assert header_of(safetensors.torch.save({})) == Header({}, {})
    assert header_of(with_header({"__metadata__": {"a": "b"}})) == Header({}, {"a": "b"})


def test_padding_of_the_header_is_no_fault() -> None:
    raw = json.dumps({"a": entry("U8", [2], 0, 2)}).encode().rjust(150).ljust(200)

    assert library_reads(with_header(raw, b"xy"))
    assert header_of(with_header(raw, b"xy")).tensors["a"] == TensorInfo("U8", (2,), 208, 210, "f")


@steady
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda n: n[:2] != "__"),
        st.tuples(st.sampled_from(list(TORCH_NAMES)), st.lists(st.integers(0, 4), max_size=4)),
        max_size=6,
    )
)
def test_whatever_the_library_writes_is_read(spec: Mapping[str, tuple[torch.dtype, list[int]]]) -> None:
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in spec.items()}
    header = header_of(safetensors.torch.save(tensors))

    assert {name: (info.dtype, info.shape) for name, info in header.tensors.items()} == {
        name: (TORCH_NAMES[value.dtype], tuple(value.shape)) for name, value in tensors.items()
    }


PAIR = {"a": entry("F32", [2, 2], 0, 16), "b": entry("BF16", [3], 16, 22)}
BODY = bytes(22)

LIES: dict[str, tuple[bytes, str, str]] = {
    "no byte at all": (b"", "empty", "the file is empty"),
    "five bytes": (b"\x05\0\0\0\0", "truncated", "too few for a safetensors header"),
    "Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "pointer", "it is a Git LFS pointer",
    ),
    "web page": (b"<!DOCTYPE html><html><body>Log in</body></html>", "html", "it is a web page"),
    "web page after blanks": (b"\n  <html lang='en'>" + b" " * 40, "html", "it is a web page"),
    "length beyond the file": (struct.pack("<Q", 5000) + b"{}", "truncated", "the header needs 5,008 bytes"),
    "length of a hundred terabytes": (struct.pack("<Q", 10**14) + b"{}", "unreadable", "the header claims"),
    "length with all bits set": (b"\xff" * 8 + b"{}", "unreadable", "the header claims"),
    "length of nothing": (with_header(b"", BODY), "unreadable", "the header claims 0 bytes"),
    "no JSON": (with_header(b"PK\x03\x04 and more"), "unreadable", "the header is not JSON"),
    "list": (with_header([1, 2]), "unreadable", "the header is not a JSON object"),
    "nested without end": (with_header(b'{"a":' * 10_000), "unreadable", "the header is not JSON"),
    "entry that is no object": (with_header({"a": 5}), "unreadable", "the header's entry for 'a' is malformed"),
    "entry without shape": (with_header({"a": {"dtype": "F32"}}), "unreadable", "the header's entry for 'a' is malformed"),
    "three offsets": (
        with_header({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}, b"x"),
        "unreadable", "the header's entry for 'a' is malformed",
    ),
    "unknown dtype": (with_header({"a": entry("F12", [1], 0, 4)}, BODY[:4]), "unreadable", "'a' has the unknown dtype 'F12'"),
    "dtype that is a list": (
        with_header({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, BODY[:4]),
        "unreadable", "'a' has the unknown dtype",
    ),
    "negative size": (with_header({"a": entry("U8", [-1], 0, 1)}, b"x"), "unreadable", "a shape or range that is no number"),
    "sizes with a fraction": (
        with_header(b'{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}', b"x"),
        "unreadable", "a shape or range that is no number",
    ),
    "sizes that are booleans": (
        with_header(b'{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', b"x"),
        "unreadable", "a shape or range that is no number",
    ),
    "shape against range": (
        with_header({"a": entry("F32", [2, 2], 0, 12)}, BODY[:12]),
        "unreadable", "'a' of shape [2, 2] in F32 takes 16 bytes, but its range has 12",
    ),
    "shape of more elements than there are atoms": (
        with_header({"a": entry("F32", [2**62, 2**62], 0, 16)}, BODY[:16]), "unreadable", "but its range has 16",
    ),
    "numbers of four thousand digits": (
        with_header({"a": entry("F32", [10**4000, 10**4000], 0, 16)}, BODY[:16]), "unreadable", "",
    ),
    "range that runs backwards": (with_header({"a": entry("U8", [0], 4, 2)}, BODY[:4]), "unreadable", ""),
    "overlap": (
        with_header({"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 8, 24)}, bytes(24)), "unreadable", "overlap",
    ),
    "two tensors on the same bytes": (
        with_header({"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 0, 16)}, bytes(16)), "unreadable", "overlap",
    ),
    "hole": (
        with_header({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 8, 12)}, bytes(12)), "unreadable", "leave a hole",
    ),
    "hole at the front": (with_header({"a": entry("U8", [4], 4, 8)}, bytes(8)), "unreadable", "leave a hole"),
    "end beyond the file": (with_header(PAIR, BODY[:-1]), "truncated", "the header promises"),
    "bytes behind the last tensor": (with_header(PAIR, BODY + b"\0"), "unreadable", "1 bytes follow the last tensor"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "state", "says"), LIES.values(), ids=LIES.keys())
def test_header_that_lies_is_refused_as_the_library_refuses_it(data: bytes, state: str, says: str) -> None:
    with pytest.raises(BadHeader) as error:
        header_of(data)

    assert (error.value.state, says in str(error.value)) == (state, True), str(error.value)
    assert len(str(error.value)) < 1000
    assert not library_reads(data)


@pytest.mark.parametrize("kept", [7, 8, 9, 50, 100, 150, 158])
def test_file_cut_off_anywhere_is_called_truncated(kept: int) -> None:
    data = with_header(PAIR, BODY)
    assert len(data) > 158

    with pytest.raises(BadHeader) as error:
        header_of(data[:kept])

    assert error.value.state == "truncated"


def test_healthy_pair_of_tensors_is_read_as_the_library_reads_it() -> None:
    assert library_reads(with_header(PAIR, BODY))
    assert list(header_of(with_header(PAIR, BODY)).tensors) == ["a", "b"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(with_header(b"\xef\xbb\xbf{}"), id="byte order mark"),
        pytest.param(with_header("{}".encode("utf-16")), id="UTF-16"),
        pytest.param(with_header(b'{"\\ud800":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"x"), id="half a character"),
        pytest.param(with_header(b'{"__metadata__":{"a":1}}'), id="metadata that is no text"),
        pytest.param(with_header(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"b":NaN}', b"x"), id="NaN"),
    ],
)  # fmt: skip
def test_what_the_library_refuses_is_not_called_readable(data: bytes) -> None:
    assert not library_reads(data)
    with pytest.raises(BadHeader):
        header_of(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
headers = st.dictionaries(
    st.text(max_size=8) | st.just("__metadata__"),
    json_values
    | st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(sorted(BITS)) | json_values,
            "shape": st.lists(st.integers(0, 5) | json_values, max_size=3) | json_values,
            "data_offsets": st.lists(st.integers(0, 40) | json_values, min_size=1, max_size=3) | json_values,
        }
    ),
    max_size=4,
)


@settings(steady, max_examples=60)
@given(headers, st.binary(max_size=40))
def test_header_made_of_anything_raises_nothing_but_bad_header(header: dict[str, Any], body: bytes) -> None:
    data = with_header(header, body)
    try:
        read = header_of(data)
    except BadHeader:
        assert not library_reads(data)
    else:
        assert all(0 <= info.start <= info.end <= len(data) for info in read.tensors.values())


@steady
@given(st.binary(max_size=120))
def test_bytes_of_any_kind_raise_nothing_but_bad_header(data: bytes) -> None:
    with contextlib.suppress(BadHeader):
        header_of(data)


@steady
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_file_with_one_wrong_byte_raises_nothing_but_bad_header(place: int, value: int) -> None:
    data = bytearray(with_header(PAIR, BODY))
    data[place % len(data)] = value
    try:
        header_of(bytes(data))
    except BadHeader:
        assert not library_reads(bytes(data))


# ------------------------------------------------------------------------------------------------------- pickles


def saved(value: object, *, legacy: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def listing_of(data: bytes) -> Listing:
    return read_listing(io.BytesIO(data), len(data), "adapter_model.bin")


def zipped(members: Mapping[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def assert_agrees_with_torch(data: bytes) -> None:
    listing = listing_of(data)
    real = torch.load(io.BytesIO(data), weights_only=True)

    assert listing.unexpected == ()
    assert {name: (info.dtype, info.shape) for name, info in listing.tensors().items()} == {
        name: (TORCH_NAMES[value.dtype], tuple(value.shape)) for name, value in real.items()
    }
    for name, info in listing.tensors().items():
        if info.start:
            assert sorted(data[info.start : info.end]) == sorted(bytes_of(real[name])), name


ADAPTER = {
    f"{PREFIX}model.layers.{layer}.q_proj.lora_{half}.weight": torch.randn(4, 8) for layer in range(3) for half in "AB"
}


YOUNG = ("F8_E4M3", "F8_E5M2", "U16", "U32", "U64")  # torch itself cannot read these in the legacy format


@pytest.mark.parametrize(
    ("dtype", "legacy"),
    [
        pytest.param(dtype, legacy, id=f"{name} {'legacy' if legacy else 'zip'}")
        for dtype, name in TORCH_NAMES.items()
        for legacy in (False, True)
        if not (legacy and name in YOUNG)
    ],
)
def test_torch_file_of_every_dtype_is_listed_as_torch_loads_it(dtype: torch.dtype, legacy: bool) -> None:
    assert_agrees_with_torch(saved({"x": some_tensor(dtype, 3, 5), "y": some_tensor(dtype, 7)}, legacy=legacy))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "state",
    [
        pytest.param(ADAPTER, id="adapter"),
        pytest.param(OrderedDict(ADAPTER), id="OrderedDict"),
        pytest.param({}, id="nothing"),
        pytest.param({"scalar": torch.tensor(1.5), "empty": torch.empty(0, 3), "one": torch.ones(1)}, id="odd shapes"),
        pytest.param({"p": torch.nn.Parameter(torch.randn(3, 4)), "q": torch.randn(2)}, id="Parameter"),
        pytest.param({"t": torch.randn(4, 6).T}, id="transposed"),
        pytest.param({"é\n\x1b[31m": torch.ones(2)}, id="odd name"),
    ],
)
def test_state_dict_is_listed_as_torch_loads_it(state: Mapping[str, torch.Tensor], legacy: bool) -> None:
    assert_agrees_with_torch(saved(state, legacy=legacy))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_state_dict_of_a_module_with_its_metadata_is_listed(legacy: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))

    assert_agrees_with_torch(saved(module.state_dict(), legacy=legacy))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_followed(protocol: int) -> None:
    out = io.BytesIO()
    torch.save(ADAPTER, out, pickle_protocol=protocol)

    listing = listing_of(out.getvalue())

    assert (len(listing.tensors()), listing.unexpected) == (6, ())


def test_byte_ranges_of_a_zip_hold_the_values() -> None:
    data = saved(ADAPTER)

    for name, info in listing_of(data).tensors().items():
        assert data[info.start : info.end] == bytes_of(ADAPTER[name]), name


def test_tensors_that_share_a_storage_have_their_own_ranges() -> None:
    whole = torch.arange(12, dtype=torch.float32)
    data = saved({"whole": whole, "front": whole[:4], "back": whole[4:].view(2, 4), "again": whole})
    found = listing_of(data).tensors()

    assert {name: data[info.start : info.end] for name, info in found.items()} == {
        "whole": bytes_of(whole), "front": bytes_of(whole[:4]), "back": bytes_of(whole[4:]), "again": bytes_of(whole),
    }  # fmt: skip


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(torch.ones(1).expand(1000), id="expanded"),
        pytest.param(torch.tensor([[0.0, float("nan")]] * 8)[:, :1], id="first column"),
        pytest.param(torch.tensor([0.0, float("nan")] * 8)[::2], id="every second"),
    ],
)
def test_strided_tensor_has_the_right_range_or_none(tensor: torch.Tensor) -> None:
    data = saved({"x": tensor, "neighbour": torch.full((64,), float("nan"))})
    info = listing_of(data).tensors()["x"]

    assert info.shape == tuple(tensor.shape)
    assert info.start == 0 or sorted(data[info.start : info.end]) == sorted(bytes_of(tensor))


def test_range_in_a_compressed_zip_is_not_guessed() -> None:
    with zipfile.ZipFile(io.BytesIO(saved(ADAPTER))) as archive:
        data = zipped({name: archive.read(name) for name in archive.namelist()}, zipfile.ZIP_DEFLATED)
    assert set(torch.load(io.BytesIO(data), weights_only=True)) == set(ADAPTER)
    found = listing_of(data).tensors()

    assert set(found) == set(ADAPTER)
    assert [info for info in found.values() if info.start] == []


def test_nested_state_dict_is_listed_at_its_top_level_only() -> None:
    listing = listing_of(saved({"a": torch.ones(2), "model": {"b": torch.ones(3)}, "step": 5, 7: torch.ones(1)}))

    assert [(name, info.shape) for name, info in listing.tensors().items()] == [("a", (2,))]
    assert [(name, info.shape) for name, info in listing.value["model"].items()] == [("b", (3,))]
    assert (listing.value["step"], listing.unexpected) == (5, ())


@pytest.mark.parametrize("value", [[torch.ones(2)], torch.ones(2), 5, "text", None, (1, 2)], ids=str)
def test_what_is_no_dict_has_no_tensors(value: object) -> None:
    assert listing_of(saved(value)).tensors() == {}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.uint16, torch.uint32, torch.float8_e4m3fnuz], ids=str)
def test_rare_dtypes_are_not_called_unsafe(dtype: torch.dtype) -> None:
    data = saved({"x": torch.zeros(3, dtype=dtype)})
    torch.load(io.BytesIO(data), weights_only=True)

    assert listing_of(data).unexpected == ()


class Reduces:
    """An object whose pickle calls what it is told to call."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def payload(mark: Path) -> str:
    return f"touch {mark}"


def malicious(mark: Path) -> dict[str, tuple[bytes, str]]:
    """Files that create ``mark`` when they are unpickled, and the global that each should be caught by."""
    command = payload(mark).encode()
    text = b"X" + struct.pack("<I", len(command)) + command
    short = b"\x8c\x05posix\x8c\x06system\x93"  # STACK_GLOBAL posix system
    magic = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    front = b"".join(pickle.dumps(one, 2) for one in magic)
    run = b"cposix\nsystem\n(" + text + b"tR."
    nothing = zipped({"archive/data.pkl": b"\x80\x02}.", "archive/version": b"3\n"})
    return {
        "REDUCE in a zip": (saved({"x": Reduces(os.system, command.decode())}), "posix.system"),
        "REDUCE in the legacy format": (saved({"x": Reduces(os.system, command.decode())}, legacy=True), "posix.system"),
        "REDUCE in a bare pickle": (pickle.dumps({"x": Reduces(os.system, command.decode())}), "posix.system"),
        "GLOBAL of protocol 0": (run, "posix.system"),
        "STACK_GLOBAL": (b"\x80\x04" + short + text + b"\x85R.", "posix.system"),
        "STACK_GLOBAL from the memo": (
            b"\x80\x04\x8c\x06system\x940\x8c\x05posix\x94h\x00\x93" + text + b"\x85R.", "posix.system",
        ),
        "INST": (b"(" + text + b"iposix\nsystem\n.", "posix.system"),
        "OBJ": (b"(cposix\nsystem\n" + text + b"o.", "posix.system"),
        "NEWOBJ": (b"\x80\x02cposix\nsystem\n" + text + b"\x85\x81.", "posix.system"),
        "NEWOBJ_EX": (b"\x80\x04" + short + text + b"\x85}\x92.", "posix.system"),
        "in a list in a dict": (saved({"a": {"b": [torch.ones(1), Reduces(os.system, command.decode())]}}), "posix.system"),
        "as an argument of a harmless call": (
            b"\x80\x02ccollections\nOrderedDict\n](cposix\nsystem\n" + text + b"\x85Re\x85R.", "posix.system",
        ),
        "eval": (saved({"x": Reduces(eval, f"__import__('os').system({command.decode()!r})")}), "__builtin__.eval"),
        "popped again": (b"\x80\x02cposix\nsystem\n" + text + b"\x85R0}.", "posix.system"),
        "in the first pickle of the legacy format": (run + front, "posix.system"),
        "in the third pickle of the legacy format": (b"".join(pickle.dumps(one, 2) for one in magic[:2]) + run, "posix.system"),
        "in the list of storages of the legacy format": (front + b"\x80\x02}." + run, "posix.system"),
        "beside a decoy that sorts first": (
            zipped({"archive/0data.pkl": b"\x80\x02}.", "archive/data.pkl": b"\x80\x02" + run, "archive/version": b"3\n"}),
            "posix.system",
        ),
        "in the archive's own folder beside a decoy's": (
            zipped({"archive/version": b"3\n", "decoy/data.pkl": b"\x80\x02}.", "archive/data.pkl": b"\x80\x02" + run}),
            "posix.system",
        ),
        "under the name of a decoy": (nothing[:0] + _twice(b"\x80\x02}.", b"\x80\x02" + run), "posix.system"),
        "before the pickle breaks off": (run[:-1], "posix.system"),
    }  # fmt: skip


def _twice(first: bytes, second: bytes) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, content in (("a/data.pkl", first), ("a/data.pkl", second), ("a/version", b"3\n")):
                archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize("name", malicious(Path("x")))
def test_malicious_pickle_is_never_run_and_its_global_is_listed_or_the_file_refused(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    data, caught = malicious(mark)[name]
    try:
        unexpected = listing_of(data).unexpected
    except BadPickle:
        unexpected = (caught,)  # a file that is not accepted at all is never loaded

    assert caught in unexpected
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    ["REDUCE in a zip", "REDUCE in the legacy format", "STACK_GLOBAL", "INST", "OBJ", "in a list in a dict"],
)
def test_the_malicious_pickles_would_have_run(name: str, tmp_path: Path) -> None:
    """The payload is real: without this, the test above would prove nothing."""
    mark = tmp_path / "mark"
    data, caught = malicious(mark)[name]

    assert listing_of(data).unexpected == (caught,)
    by_torch = data[:2] == b"PK" or name.endswith("legacy format")
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # some of them end in an error once they have run
        warnings.simplefilter("ignore")
        torch.load(io.BytesIO(data), weights_only=False) if by_torch else pickle.loads(data)
    assert mark.exists()


def test_array_of_numpy_is_listed_as_unexpected() -> None:
    import numpy

    listing = listing_of(saved({"x": numpy.ones(3)}))

    assert any("_reconstruct" in name for name in listing.unexpected), listing.unexpected
    assert listing.tensors() == {}


@pytest.mark.parametrize(
    ("data", "state"),
    [
        pytest.param(b"", "empty", id="no byte"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "pointer", id="LFS pointer"
        ),
        pytest.param(b"<!doctype html><html></html>", "html", id="web page"),
        pytest.param(saved(ADAPTER)[:-30], "truncated", id="zip without its end"),
        pytest.param(saved(ADAPTER)[:300], "truncated", id="front of a zip"),
        pytest.param(pickle.dumps({"a": [1, 2, 3]})[:-1], "truncated", id="pickle without its end"),
        pytest.param(zipped({"archive/other": b"x"}), "unreadable", id="another zip"),
        pytest.param(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", "unreadable", id="npy"),
        pytest.param(b"just some text", "unreadable", id="text"),
    ],
)
def test_file_that_is_no_torch_file_is_told_apart(data: bytes, state: str) -> None:
    with pytest.raises(BadPickle) as error:
        listing_of(data)

    assert error.value.state == state


def patched(data: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """``data`` with ``value`` written ``offset`` bytes behind each ``signature``."""
    out = bytearray(data)
    at = data.find(signature)
    while at >= 0:
        out[at + offset : at + offset + len(value)] = value
        at = data.find(signature, at + 4)
    return bytes(out)


CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"
DAMAGED_ZIPS: dict[str, bytes] = {
    "encrypted": patched(patched(saved(ADAPTER), CENTRAL, 8, b"\x01"), LOCAL, 6, b"\x01"),
    "of a later version of zip": patched(saved(ADAPTER), CENTRAL, 6, b"\xff"),
    "of an unknown compression": patched(patched(saved(ADAPTER), CENTRAL, 10, b"\x63"), LOCAL, 8, b"\x63"),
    "said to be deflated": patched(patched(saved(ADAPTER), CENTRAL, 10, b"\x08"), LOCAL, 8, b"\x08"),
    "said to be bzip2": patched(patched(saved(ADAPTER), CENTRAL, 10, b"\x0c"), LOCAL, 8, b"\x0c"),
    "said to be lzma": patched(patched(saved(ADAPTER), CENTRAL, 10, b"\x0e"), LOCAL, 8, b"\x0e"),
    "with a wrong checksum": patched(saved(ADAPTER), CENTRAL, 16, b"\x01\x02\x03\x04"),
    "with entries beyond the end": patched(saved(ADAPTER), CENTRAL, 42, b"\xf0\xff\xff\x7f"),
}  # fmt: skip


@pytest.mark.parametrize("data", DAMAGED_ZIPS.values(), ids=DAMAGED_ZIPS.keys())
def test_damaged_zip_raises_nothing_but_bad_pickle(data: bytes) -> None:
    with pytest.raises(BadPickle):
        listing_of(data)


def test_offset_beyond_sixty_three_bits_raises_nothing_but_bad_pickle() -> None:
    """A zip64 extra field puts an entry at 2**64 - 1."""
    with zipfile.ZipFile(io.BytesIO(saved(ADAPTER))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.infolist()[-1].header_offset = 2**64 - 1
    data = out.getvalue()

    with contextlib.suppress(BadPickle):
        listing_of(data)


@settings(steady, max_examples=200)
@given(st.sampled_from([False, True]), st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 10**6))
def test_torch_file_with_wrong_bytes_raises_nothing_but_bad_pickle(
    legacy: bool, place: int, value: int, cut: int
) -> None:
    data = bytearray(LEGACY if legacy else ZIP)
    data[place % len(data)] = value
    if cut % 3 == 0:
        del data[cut % len(data) :]
    with contextlib.suppress(BadPickle):
        listing_of(bytes(data)).tensors()


ZIP, LEGACY = saved({"a": torch.ones(2), "b": torch.ones(1)}), saved({"a": torch.ones(2)}, legacy=True)
opcodes = st.sampled_from(
    [b"(", b"}", b"]", b")", b"N", b"0", b"1", b"2", b"R", b"b", b"s", b"u", b"a", b"e", b"t", b"d", b"l", b"o", b"Q",
     b"\x81", b"\x85", b"\x86", b"\x87", b"\x88", b"\x8f", b"\x90", b"\x91", b"\x92", b"\x93", b"\x94", b"K\x05", b"q\x00",
     b"h\x00", b"\x8c\x02os", b"\x8c\x07storage", b"cos\nsystem\n", b"ccollections\nOrderedDict\n",
     b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ios\nsystem\n",
     b"ctorch._utils\n_rebuild_parameter\n", b"J\xff\xff\xff\xff", b"\x82\x01", b"."]
)  # fmt: skip


@settings(steady, max_examples=300)
@given(st.lists(opcodes, max_size=25))
def test_opcodes_in_any_order_raise_nothing_but_bad_pickle(parts: list[bytes]) -> None:
    data = b"\x80\x04" + b"".join(parts) + b"."
    try:
        listing = listing_of(data)
    except BadPickle:
        return
    listing.tensors()
    # The machine sees a pickle's globals once it has followed it to its end.
    assert ("os.system" in listing.unexpected) == (
        b"cos\nsystem\n" in parts or b"ios\nsystem\n" in parts
    ) or b"." in parts


def in_time(data: bytes, seconds: float = 60) -> None:
    """Read the listing in a process of its own: what it is fed may hang or crash one."""
    import subprocess
    import sys

    script = (
        "import io, sys\nfrom adapter_doctor.formats.torch_pickle import BadPickle, read_listing\n"
        "data = sys.stdin.buffer.read()\ntry:\n    read_listing(io.BytesIO(data), len(data)).tensors()\n"
        "except BadPickle:\n    pass\nprint('done')"
    )
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, timeout=seconds)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"done\n", b"")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x80\x02})" + b"2\x86" * 50 + b"Ns.", id="key that doubles fifty times"),
        pytest.param(b"\x80\x04\x8c\x02os)" + b"2\x86" * 50 + b"\x93.", id="name that doubles fifty times"),
        pytest.param(b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns.", id="key of a million levels"),
        pytest.param(b"\x80\x02(" + b"N" * 400_000 + b"(t" * 400_000 + b"t.", id="many marks on a high stack"),
        pytest.param(b"\x80\x02]" + b"2a" * 200_000 + b".", id="list in itself"),
    ],
)
def test_pickle_made_to_hang_a_reader_does_not(data: bytes) -> None:
    in_time(data)


def test_pickle_of_more_opcodes_than_are_followed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_pickle, "MAX_OPCODES", 1000)

    assert listing_of(b"\x80\x02" + b"N0" * 490 + b"}.").tensors() == {}
    with pytest.raises(BadPickle) as error:
        listing_of(b"\x80\x02" + b"N0" * 600 + b"}.")
    assert error.value.state == "too-large"


# ----------------------------------------------------------------------------------------------------------- keys

LEAVES = ["q_proj", "v_proj"]
# What each PEFT type needs beyond its defaults to fit on a model of 32 columns; every type of PEFT 0.21 that can be made.
OPTIONS: dict[str, dict[str, Any]] = {
    "ADALORA": {"init_r": 4, "total_step": 10}, "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2}, "BEFT": {},
    "BOFT": {"boft_block_size": 8}, "C3A": {"block_size": 8}, "DEFT": {}, "DELORA": {"r": 4}, "FOURIERFT": {"n_frequency": 20},
    "GLORA": {"r": 4}, "GRALORA": {"r": 4}, "HIRA": {"r": 4}, "HRA": {"r": 4}, "IA3": {"feedforward_modules": []}, "LILY": {"r": 4},
    "LN_TUNING": {}, "LOHA": {"r": 4}, "LOKR": {"r": 4}, "LORA": {"r": 4}, "MISS": {"r": 4}, "OFT": {"oft_block_size": 8},
    "OSF": {}, "PEANUT": {"r": 4}, "POLY": {"r": 4, "n_tasks": 2, "n_skills": 2, "n_splits": 2}, "PSOFT": {"r": 4}, "PVERA": {"r": 4},
    "RANDLORA": {"r": 4}, "ROAD": {"group_size": 8}, "SHADOW": {}, "SHIRA": {"r": 4}, "SUPERTUNING": {}, "TINYLORA": {},
    "TRAINABLE_TOKENS": {"token_indices": [1, 2]}, "UNILORA": {"r": 4}, "VBLORA": {"r": 4, "num_vectors": 8, "vector_length": 8},
    "VERA": {"r": 4}, "WAVEFT": {"n_frequency": 20}, "ADAMSS": {},
}  # fmt: skip
PROMPTS: dict[str, dict[str, Any]] = {
    "PROMPT_TUNING": {"num_virtual_tokens": 4}, "PREFIX_TUNING": {"num_virtual_tokens": 4}, "P_TUNING": {"num_virtual_tokens": 4},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 4, "num_tasks": 2}, "CARTRIDGE": {"num_virtual_tokens": 4},
    "CPT": {"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
}  # fmt: skip
LORA_VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {}, "DoRA": {"use_dora": True}, "with bias": {"lora_bias": True}, "rank-stabilised": {"use_rslora": True},
    "on the embedding": {"target_modules": ["embed_tokens", "q_proj"]}, "DoRA on the embedding": {
        "target_modules": ["embed_tokens"], "use_dora": True}, "all linear": {"target_modules": "all-linear"},
    "on the head": {"target_modules": ["lm_head"]}, "trained tokens": {"trainable_token_indices": [1, 2]},
    "on a parameter": {"target_modules": [], "target_parameters": ["q_proj.weight"]},
    "replicated layers": {"layer_replication": [[0, 2], [1, 3]]},
}  # fmt: skip


def adapted(kind: str, options: Mapping[str, Any], name: str = "default") -> Any:
    """A tiny Llama with an adapter of this type."""
    cls = peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    options = dict(options)
    if "target_modules" in cls.__dataclass_fields__ and kind not in (
        "LN_TUNING",
        "TRAINABLE_TOKENS",
        "ADAPTION_PROMPT",
    ):
        options.setdefault("target_modules", LEAVES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(
            tiny.by_name("llama").build(), cls(task_type="CAUSAL_LM", **options), adapter_name=name
        )


def keys_of(model: Any, name: str = "default") -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(peft.get_peft_model_state_dict(model, save_embedding_layers=False, adapter_name=name))


@cache
def base_modules() -> frozenset[str]:
    return frozenset(name for name, _ in tiny.by_name("llama").build().named_modules())


def assert_parsed_rightly(model: Any, keys: list[str]) -> None:
    targeted = set(getattr(model.base_model, "targeted_module_names", []) or []) or base_modules()
    assert keys
    for key in keys:
        parsed = parse(key)
        assert parsed is not None, key
        assert parsed.module in targeted or parsed.module == "", (key, parsed)
        shown = ".".join(part for part in (parsed.prefix.rstrip("."), parsed.module, parsed.parameter) if part)
        assert shown + parsed.tail == key
        assert adapter_name(parsed) is None, key


@pytest.mark.parametrize("kind", OPTIONS)
def test_keys_of_every_peft_type_parse_to_the_module_they_adapt(kind: str) -> None:
    model = adapted(kind, OPTIONS[kind])
    keys = keys_of(model)

    assert_parsed_rightly(model, keys)
    at_modules = {parsed.module for parsed in map(parse, keys) if parsed is not None} - {""}
    wanted = set(getattr(model.base_model, "targeted_module_names", []) or [])
    assert kind == "UNILORA" or at_modules == wanted or not wanted  # UniLoRA has one vector for all modules


@pytest.mark.parametrize("kind", PROMPTS)
def test_keys_of_prompts_belong_to_no_module(kind: str) -> None:
    parsed = [parse(key) for key in keys_of(adapted(kind, PROMPTS[kind]))]

    assert parsed
    assert {None if one is None else one.module for one in parsed} == {""}


@pytest.mark.parametrize("variant", [name for name in LORA_VARIANTS if name != "on a parameter"])
def test_keys_of_every_kind_of_lora_parse_to_the_module_they_adapt(variant: str) -> None:
    model = adapted("LORA", {"r": 4, **LORA_VARIANTS[variant]})
    names = {name for name, _ in model.get_base_model().named_modules()}
    keys = keys_of(model)

    assert keys
    for key in keys:
        parsed = parse(key)
        assert parsed is not None, key
        assert parsed.module in names, (key, parsed)
        assert adapter_name(parsed) is None


def test_keys_of_lora_on_a_parameter_parse_to_the_module_that_has_it() -> None:
    keys = keys_of(adapted("LORA", {"r": 4, **LORA_VARIANTS["on a parameter"]}))

    assert {parsed.module.rpartition(".")[2] for parsed in map(parse, keys) if parsed} == {"q_proj"}


@pytest.mark.parametrize("architecture", ["gpt2", "t5", "bert", "mamba", "qwen3-moe"])
def test_keys_on_other_architectures_parse_to_the_module_they_adapt(architecture: str) -> None:
    recipe = tiny.by_name(architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(task_type=recipe.task, r=2, target_modules=list(recipe.leaves))
        model = peft.get_peft_model(recipe.build(), config)
    saved_whole = ("classifier", "score")

    assert_parsed_rightly(model, [key for key in keys_of(model) if not any(f".{name}." in key for name in saved_whole)])


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model.model.norm.weight", "base_model.model.lm_head.weight", "base_model.model.classifier.modules_to_save.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight", "model.layers.0.self_attn.q_proj.weight", "", ".", "weight",
        "base_model.model.model.layers.0.self_attn.q_proj.bias", "base_model.model.explorer_A.weight", "base_model.model.my_lora_A.weight",
        "base_model.model.lora_Announcement.weight",
    ],
)  # fmt: skip
def test_name_that_no_method_uses_is_no_adapter_key(key: str) -> None:
    assert parse(key) is None


@pytest.mark.parametrize("name", ["default", "my-adapter", "lora"])
@pytest.mark.parametrize("kind", ["LORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA"])
def test_name_of_the_adapter_is_found_in_a_raw_state_dict(kind: str, name: str) -> None:
    prefixes = {
        "LORA": "lora_",
        "IA3": "ia3_",
        "LOHA": "hada_",
        "LOKR": "lokr_",
        "OFT": "oft_",
        "BOFT": "boft_",
        "VERA": "vera_lambda",
    }
    keys = [key for key in adapted(kind, OPTIONS[kind], name).state_dict() if f".{prefixes[kind]}" in key]

    assert keys
    assert {None if (one := parse(key)) is None else adapter_name(one) for key in keys} == {name}


@steady
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from([*"ab.", "lora_A", "weight", PREFIX, "default", "base_model"]), max_size=12).map(
        ".".join
    )
)
def test_any_text_is_parsed_without_a_murmur(key: str) -> None:
    parsed = parse(key)
    if parsed is not None:
        assert (parsed.key, adapter_name(parsed) is None or bool(parsed.tail)) == (key, True)


def test_parsing_a_long_key_takes_no_time() -> None:
    began = time.process_time()

    parse("base_model.model." + "layers.lora_" * 20_000)
    parse("lora_A" * 20_000)

    assert time.process_time() - began < 2


# ------------------------------------------------------------------------------------------------------- patterns

NAMES = [
    f"model.layers.{layer}.{part}"
    for layer in range(12)
    for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "input_layernorm")
] + ["lm_head", "model.embed_tokens", "model", "a" * 40]
pieces = st.sampled_from(
    [".*", r"\.", r"\d+", "[0-5]", "(q|v)_proj", "layers", "model", "self_attn", "(mlp|self_attn)", "q_proj", ".", "proj", "$",
     "^", r"(?:1?\d)", r"\w+", "(up|down)_proj", "(?!.*mlp)", r"[^.]*", "a?", "(a|b)"]
)  # fmt: skip


@settings(steady, max_examples=120)
@given(st.lists(pieces, min_size=1, max_size=6).map("".join), st.booleans())
def test_patterns_match_what_re_matches(pattern: str, whole: bool) -> None:
    compiled = re.compile(pattern)

    assert matching(pattern, NAMES, whole=whole) == [
        name for name in NAMES if (compiled.fullmatch(name) if whole else compiled.match(name))
    ]


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q_proj|v_proj)", r"model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj", r"(.*\.)?(q_proj)$",
        r"^(?!.*vision).*(?:self_attn|mlp).*(?:q|k|v|o|gate|up|down)_proj$", r".*layers\.(1[0-9]|2[0-3])\..*proj.*",
    ],
)  # fmt: skip
def test_patterns_that_people_write_are_matched_in_no_time(pattern: str) -> None:
    names = [f"model.layers.{layer}.self_attn.{leaf}_proj" for layer in range(126) for leaf in "qkvo"]
    began = time.monotonic()

    assert matching(pattern, names) == [name for name in names if re.fullmatch(pattern, name)]
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param("(a+)+b", id="repeat in a repeat"),
        pytest.param(".*.*.*.*.*.*.*.*.*.*.*.*#", id="many repeats"),
        pytest.param("a?" * 30 + "a" * 40, id="many options"),
        pytest.param(".?" * 30 + "#", id="many options of anything"),
        pytest.param("(?:a|.)" * 32 + "#", id="many alternatives"),
        pytest.param("(?#[)(a+)+b(?#])", id="comments that look like a class"),
        pytest.param("(?x) ( a + ) + b", id="verbose"),
        pytest.param(r"(a*)*\1b", id="back reference"),
    ],
)
def test_pattern_that_never_ends_is_stopped(pattern: str) -> None:
    """In a process of its own, for a pattern that is not stopped would hang this one."""
    import subprocess
    import sys

    script = (
        "import sys\nfrom adapter_doctor.formats.patterns import BadPattern, matching\ntry:\n"
        "    matching(sys.argv[1], ['a' * 40, 'model.layers.0.self_attn.q_proj.more.and.more'])\n"
        "except BadPattern as error:\n    print(error)\nelse:\n    print('it ended')"
    )
    done = subprocess.run([sys.executable, "-c", script, pattern], capture_output=True, text=True, timeout=30)

    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout in ("it ended\n", "does not finish: matching 2 module names was stopped after 2 seconds\n")


@pytest.mark.parametrize("pattern", ["(", "*", "[a", "(?P<n>a)(?P<n>b)", "a{2,1}", "(" * 5000, "x" * 30_000, "\\"])
def test_pattern_that_does_not_compile_is_named(pattern: str) -> None:
    with pytest.raises(BadPattern, match=r"is no regular expression|characters long"):
        matching(pattern, NAMES)


def test_pattern_with_odd_characters_is_matched_as_re_does() -> None:
    names = ["é", "日本", "a\nb", "\x1b[31m", "\ud800"]

    assert matching(r"(.+)+", names[:4]) == ["é", "日本", "\x1b[31m"]
    assert matching(r"\w", names) == ["é"]
    assert matching(r"(\W+)+", ["\ud800"]) == ["\ud800"]


@steady
@given(
    st.lists(
        st.sampled_from(["q_proj", "proj", r".*q_proj", "self_attn.q_proj", r"model\.layers\.1\..*", "layers.2.mlp", "x|v_proj", r"\w+"]),
        max_size=4,
    ),
    st.sampled_from(NAMES),
)  # fmt: skip
def test_key_of_a_rank_pattern_is_the_one_peft_takes(keys: list[str], name: str) -> None:
    from peft.utils.other import get_pattern_key

    taken = pattern_key(keys, name)

    assert (name if taken is None else taken) == get_pattern_key(keys, name)


# ---------------------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("seed", range(25))
def test_declared_ranks_and_scalings_are_those_of_pefts_layers(seed: int) -> None:
    pick = random.Random(seed)
    keys = ["q_proj", "v_proj", "layers.1.self_attn.q_proj", r"model\.layers\.[02]\..*", ".*_proj", "up_proj", "mlp.up_proj", "proj",
            "^model.layers.0.self_attn.q_proj", "self_attn|mlp.up_proj"]  # fmt: skip
    raw: dict[str, Any] = {
        "r": pick.choice([1, 3, 8]), "lora_alpha": pick.choice([1, 8, 16, 7]), "use_rslora": pick.random() < 0.4,
        "rank_pattern": {key: pick.choice([2, 4, 5]) for key in pick.sample(keys, pick.randint(0, 3))},
        "alpha_pattern": {key: pick.choice([3, 32, 0.5]) for key in pick.sample(keys, pick.randint(0, 3))},
    }  # fmt: skip
    model = adapted("LORA", {**raw, "target_modules": ["q_proj", "v_proj", "up_proj"]})
    config = AdapterConfig(raw)
    layers = {
        name.removeprefix(PREFIX): module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "scaling", None), dict)
    }

    assert len(layers) == 9
    assert {name: rank_of(config, name) for name in layers} == {name: one.r["default"] for name, one in layers.items()}
    assert {name: scaling_of(config, name) for name in layers} == {
        name: pytest.approx(one.scaling["default"]) for name, one in layers.items()
    }


def test_defaults_of_rank_and_alpha_are_pefts() -> None:
    default = peft.LoraConfig()

    assert rank_of(AdapterConfig({}), "q_proj") == default.r
    assert scaling_of(AdapterConfig({}), "q_proj") == default.lora_alpha / default.r


@pytest.mark.parametrize(
    "raw",
    [{"r": 0}, {"r": -1}, {"r": "8"}, {"r": None}, {"r": True}, {"r": 2.0}, {"rank_pattern": []}, {"rank_pattern": {"(": 4}},
     {"lora_alpha": None}, {"lora_alpha": "x"}, {"alpha_pattern": {"q_proj": None}}, {"alpha_pattern": 3}],
    ids=str,
)  # fmt: skip
def test_rank_or_alpha_that_means_nothing_raises_what_is_promised(raw: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        scaling_of(AdapterConfig(raw), "model.layers.0.self_attn.q_proj")


def test_ranks_by_regular_expression_are_found_in_no_time() -> None:
    config = AdapterConfig(
        {"r": 8, "rank_pattern": {r".*\.layers\.\d+\.self_attn\..*_proj": 4, r"^model\.layers\.\d+\.mlp\..*": 2}}
    )
    modules = [f"model.layers.{layer}.{leaf}_proj" for layer in range(32) for leaf in
               ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")]  # fmt: skip
    began = time.monotonic()

    assert {rank_of(config, name) for name in modules} == {4, 2}
    assert time.monotonic() - began < 10
