"""The quick way through a pickle's opcodes says what the one by name says, of sound pickles, cut ones and random bytes."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_doctor.facts import TensorInfo
from adapter_doctor.formats import common_opcodes
from adapter_doctor.formats.torch_pickle import BadPickle, Opaque, read_listing

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


def state(parameters: int = 40) -> bytes:
    moments = {
        number: {
            "step": torch.tensor(3.0),
            "exp_avg": torch.zeros(number + 1, 300),
            "exp_avg_sq": torch.zeros(number + 1, 300),
        }
        for number in range(parameters)
    }
    file = io.BytesIO()
    torch.save({"state": moments, "param_groups": [{"lr": 1e-4, "params": list(range(parameters))}]}, file)
    return file.getvalue()


def outcome(data: bytes) -> Any:
    try:
        listing = read_listing(io.BytesIO(data), len(data), "it")
    except BadPickle as error:
        return error.state
    return _plain(listing.value), listing.globals


def _plain(value: Any) -> Any:
    if isinstance(value, Opaque):
        return ("opaque", value.name)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def one_by_one(monkeypatch: pytest.MonkeyPatch, data: bytes) -> Any:
    with monkeypatch.context() as patched:
        patched.setattr(common_opcodes, "follow", lambda _, position, *__: (position, 0))
        return outcome(data)


def test_a_state_of_tensors_is_the_same_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    data = state()
    found = outcome(data)

    assert found == one_by_one(monkeypatch, data)
    assert found[0]["state"][39]["exp_avg"] == TensorInfo("F32", (40, 300), *_range(found, 39), "it")


def _range(found: Any, number: int) -> tuple[int, int]:
    info = found[0]["state"][number]["exp_avg"]
    assert 0 < info.start < info.end == info.start + (number + 1) * 1200
    return info.start, info.end


@settings(max_examples=150, deadline=None)
@given(VALUES, st.integers(0, 5))
def test_any_pickle_is_the_same_both_ways(value: Any, protocol: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        data = pickle.dumps(value, protocol)
        assert outcome(data) == one_by_one(monkeypatch, data)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=40)
    | st.lists(st.sampled_from([*b"rqhKXMtR)(\x86\x89QJ.}]ued\x80\x02\x00\x01\x94\x8cj\x81\x85b"]), max_size=60).map(
        bytes
    )
)
def test_bytes_of_any_kind_are_the_same_both_ways(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert outcome(data) == one_by_one(monkeypatch, data)


def test_a_pickle_cut_anywhere_is_the_same_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pickle.dumps({"a": [1, 300, -70000, "text", (1, 2), False], "b": {"c": "d" * 30}}, 2)

    for length in range(1, len(whole)):
        assert outcome(whole[:length]) == one_by_one(monkeypatch, whole[:length])
