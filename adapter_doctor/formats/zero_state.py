"""Put the state of an optimizer together that DeepSpeed's ZeRO keeps apart, a file for each process.

As DeepSpeed 0.19.8 writes it (runtime/zero/stage_1_and_2.py and stage3.py; its own utils/zero_to_fp32.py reads it back):
stages 1 and 2 lay a group's parameters end to end and cut the whole into one part for each process; stage 3 cuts every
parameter so, and lays its parts end to end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from adapter_doctor.facts import Moments, MomentsPart, OptimizerState, Shape, TensorInfo
from adapter_doctor.formats.optimizer_state import GROUPS, STATE, counted, key_text, plain_group, saved_shape, unwrapped
from adapter_doctor.formats.torch_pickle import Opaque

MAX_PARAMETERS = 200_000
MAX_PARTS = 1_000_000


class NotTogether(ValueError):
    """The files are of a kind that is not put together here; the text says why."""


def put_together(
    model: Mapping[str, Any], processes: Sequence[Any], file: str, step: Callable[[TensorInfo], float | None]
) -> tuple[OptimizerState, tuple[MomentsPart, ...]]:
    """The state as one optimizer of whole parameters would have it, and where each part of its moments lies.

    ``model`` is what a file of model states holds, ``processes`` what those of the optimizer's states do, in the order of
    their processes; None stands for one that cannot be read. ``step`` reads the number in a tensor of one element.

    Raises:
        NotTogether: the files do not agree, or are laid out in a way that is not known here.
    """
    shapes = [dict(_shapes(group)) for group in _list(model.get("param_shapes"))]
    inner = [_inner(one) for one in processes]
    first = next((one for one in inner if one is not None), None)
    if first is None or not shapes or sum(map(len, shapes)) > MAX_PARAMETERS:
        raise NotTogether("its files name no parameters, or hold no moments")
    options, flat = _list(first.get(GROUPS)), _moments(first)
    if len(options) != len(shapes) or len(flat) not in (0, len(shapes)):
        raise NotTogether(f"it has {len(shapes)} groups of parameters, and {len(flat)} of moments")
    # Of more parts it is not said where they lie.
    whole = all(one is not None for one in inner) and sum(map(len, shapes)) * len(processes) <= MAX_PARTS
    each = [_moments(one) if one is not None else [] for one in inner]
    third = _stage(processes) == 3
    groups, number = [], 0
    moments: dict[int | str, Moments] = {}
    parts: list[MomentsPart] = []
    for at, named in enumerate(shapes):
        ids = tuple(range(number, number + len(named)))
        number += len(named)
        groups.append(plain_group(options[at], ids, tuple(named)))
        if not flat:
            continue
        kept = flat[at]
        # Beside the flat moments there are the step, and with bitsandbytes' 8 bits the scales of blocks.
        size = max((info.shape[-1] for info in kept.tensors.values() if info.shape), default=0)
        long = {name: info for name, info in kept.tensors.items() if info.shape and info.shape[-1] == size}
        for key, shape in zip(ids, named.values(), strict=True):
            tensors = {name: TensorInfo(info.dtype, (*info.shape[:-1], *shape)) for name, info in long.items()}
            moments[key] = Moments({**kept.tensors, **tensors}, kept.numbers)
        for name, info in long.items() if whole else ():
            if len(info.shape) == 1:
                pieces = [one[at].tensors.get(name) for one in each if len(one) > at]
                parts += _parts(name, pieces, list(zip(ids, named.values(), strict=True)), len(processes), third)
    steps = {step(kept.tensors["step"]) if "step" in kept.tensors else kept.numbers.get("step") for kept in flat}
    made = tuple(sorted(one for one in map(counted, steps) if one is not None))
    return OptimizerState(file, tuple(groups), moments, steps=made), tuple(parts)


def _parts(
    name: str, pieces: Sequence[TensorInfo | None], parameters: Sequence[tuple[int, Shape]], world: int, third: bool
) -> Iterator[MomentsPart]:
    """Where the parts of these parameters' moment lie in the flat tensors of the processes."""
    sizes = [info.count if info is not None else 0 for info in pieces]
    own = [-(-math.prod(shape) // world) if third else math.prod(shape) for _, shape in parameters]
    room = min(sizes, default=0) if third else sum(sizes)
    if len(pieces) != world or sum(own) > room:
        raise NotTogether(f"`{name}` has {room:,} elements for parameters of {sum(own):,}")
    for process, info in enumerate(pieces):
        assert info is not None  # else there would be too few elements
        begin = 0 if third else sum(sizes[:process])
        at = 0
        for (key, _), size in zip(parameters, own, strict=True):
            start, end = max(at - begin, 0), min(at - begin + size, info.count)
            at += size
            width = (info.end - info.start) // info.count if info.start and info.count else 0
            if start < end and width:
                place = info.start + start * width
                part = TensorInfo(info.dtype, (end - start,), place, place + (end - start) * width, info.file)
                yield MomentsPart(key, name, part)


def _inner(process: Any) -> Mapping[str, Any] | None:
    """The state dict of the optimizer that ZeRO wraps."""
    saved = process.get("optimizer_state_dict") if isinstance(process, dict) else None
    for key in ("base_optimizer_state", "optimizer_state_dict"):
        inner = saved.get(key) if isinstance(saved, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get(STATE), dict):
            return inner
    return None


def _moments(inner: Mapping[str, Any]) -> list[Moments]:
    found = []
    for kept in inner[STATE].values():
        pairs = unwrapped(kept).items() if isinstance(kept, dict) else ()
        tensors = {key_text(key): one for key, one in pairs if isinstance(one, TensorInfo)}
        found.append(Moments(tensors, {key_text(key): one for key, one in pairs if isinstance(one, int | float)}))
    return found


def _stage(processes: Sequence[Any]) -> int | None:
    for one in processes:
        saved = one.get("optimizer_state_dict") if isinstance(one, dict) else None
        stage = saved.get("zero_stage") if isinstance(saved, dict) else None
        stage = stage.arguments[0] if isinstance(stage, Opaque) and stage.arguments else stage
        if isinstance(stage, int):
            return stage
    return None


def _shapes(group: Any) -> Iterator[tuple[str, Shape]]:
    for name, size in group.items() if isinstance(group, dict) else ():
        shape = saved_shape(size)
        if shape is not None:
            yield key_text(name), shape


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
