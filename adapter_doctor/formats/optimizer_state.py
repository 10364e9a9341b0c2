"""Read an optimizer's state off the listing of a `torch.save` file: groups, ids, moments, and how many steps it made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from adapter_doctor.facts import Moments, OptimizerState, ParameterGroup, Shape, TensorInfo
from adapter_doctor.formats.torch_pickle import Opaque

STATE, GROUPS = "state", "param_groups"
_WRAPPERS = ("optimizer", "optimizer_state_dict", "optim", "optimizer_state", "optimizers", "optimizer_states")
_STATES_SAMPLED = 64
_WRAPPED = "__bnb_optimizer_quant_state__"
"""Where bitsandbytes ≥ 0.49.2 keeps a parameter's moments in a saved state, to hide them from FSDP; it takes both forms."""


MOST = 1 << 63
"""Beyond what any count, offset or key really is; so long a number may be too long to be written out."""


class NoOptimizerState(ValueError):
    """The file holds something else; ``found`` are its top-level keys."""

    def __init__(self, found: tuple[str, ...]) -> None:
        super().__init__(", ".join(found))
        self.found = found


def read_state(value: Any, file: str, step: Callable[[TensorInfo], float | None]) -> OptimizerState:
    """The state that a file's outermost value is, or holds under one of the usual keys.

    ``step`` reads the number in a tensor of one element, or says None.

    Raises:
        NoOptimizerState: there is none in it.
    """
    inside = ""
    if isinstance(value, dict) and not {STATE, GROUPS} & set(value):
        for key in _WRAPPERS:
            inner = value.get(key)
            inner = inner[0] if isinstance(inner, list) and inner else inner
            if isinstance(inner, dict) and {STATE, GROUPS} & set(inner):
                inside, value = key, inner
                break
    if not isinstance(value, dict) or not {STATE, GROUPS} & set(value):
        keys = list(value)[:20] if isinstance(value, dict) else []
        raise NoOptimizerState(tuple(map(key_text, keys)))
    groups = tuple(_group(one) for one in _list(value.get(GROUPS)) if isinstance(one, dict))
    saved = value.get(STATE)
    moments = {key: _moments(one) for key, one in saved.items()} if isinstance(saved, dict) else {}
    known = {one for group in groups for one in group.parameters}
    # PEFT's LoRA-FA keeps the moments of a pair under its layer's name, and torch hands them on as they are.
    layers = {
        f"{name.partition('.lora_')[0]}.lora" if ".lora_" in name else name for one in groups for name in one.names
    }
    extra = [key_text(key) for key in value if key not in (STATE, GROUPS)]
    extra += [
        f"{STATE}[{key!r}]" if isinstance(key, str) else f"{STATE}[{key_text(key)}]"
        for key in moments
        if key not in known | layers and groups
    ]
    return OptimizerState(
        file, groups, moments, tuple(extra),
        tuple(name for name, kind in ((STATE, dict), (GROUPS, list)) if not isinstance(value.get(name), kind)),
        inside, _steps(moments, step),
    )  # fmt: skip


def _group(raw: Mapping[Any, Any]) -> ParameterGroup:
    names = tuple(str(one) for one in _list(raw.get("param_names")) or _list(raw.get("names")))
    return plain_group(raw, tuple(one for one in _list(raw.get("params")) if isinstance(one, int | str)), names)


def plain_group(raw: Any, parameters: tuple[int | str, ...], names: tuple[str, ...]) -> ParameterGroup:
    """A group of these parameters, with the options that were saved."""
    beside = ("params", "param_names", "names")
    options = (
        {key_text(key): _plain(one) for key, one in raw.items() if key not in beside} if isinstance(raw, dict) else {}
    )
    return ParameterGroup(parameters, options, names)


def _moments(raw: Any) -> Moments:
    """Tensors inside lists and dicts count under their path, as some optimizers keep several."""
    tensors: dict[str, TensorInfo] = {}
    numbers: dict[str, Any] = {}

    def note(name: str, one: Any, depth: int) -> None:
        if isinstance(one, TensorInfo):
            tensors[name] = one
        elif isinstance(one, dict) and depth < 4:
            for key, inner in one.items():
                note(f"{name}.{key_text(key)}" if name else key_text(key), inner, depth + 1)
        elif one is not None:
            numbers[name] = _plain(one)

    if isinstance(raw, dict):
        note("", unwrapped(raw), 0)
    return Moments(tensors, numbers)


def unwrapped(kept: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """What an optimizer keeps of a parameter, without the wrapper of bitsandbytes."""
    inner = kept.get(_WRAPPED)
    return {**kept, **inner, _WRAPPED: None} if isinstance(inner, dict) else kept


def _steps(moments: Mapping[int | str, Moments], step: Callable[[TensorInfo], float | None]) -> tuple[float, ...]:
    """The distinct step counts, of a sample of the parameters where they lie in tensors."""
    found: set[float] = set()
    keys = list(moments)
    for key in keys[:: max(1, len(keys) // _STATES_SAMPLED)]:
        one = moments[key]
        number = one.numbers.get("step")
        if "step" in one.tensors and one.tensors["step"].count == 1:
            number = step(one.tensors["step"])
        found |= {made} if (made := counted(number)) is not None else set()
    return tuple(sorted(found))


def plain_fields(value: Any) -> dict[str, Any]:
    """The numbers, texts and lists among the fields of a dict or of an object; an enum's member counts as its value."""
    raw = value.state if isinstance(value, Opaque) else value
    if not isinstance(raw, Mapping):
        return {}
    fields = {key_text(key): _plain(one) for key, one in raw.items()}
    return {key: one for key, one in fields.items() if not isinstance(one, Opaque)}


def counted(number: Any) -> float | None:
    """A number of steps; None for what is no number that steps have."""
    plain = isinstance(number, int | float) and not isinstance(number, bool) and abs(number) < MOST
    return float(number) if plain else None


def key_text(key: Any) -> str:
    """A saved key as text."""
    return f"a number of {key.bit_length():,} bits" if isinstance(key, int) and abs(key) >= MOST else str(key)


def saved_shape(size: Any) -> Shape | None:
    """The shape that a saved `torch.Size` says, of at most the 64 dimensions that torch has; None where it is none."""
    shape = size.arguments[0] if isinstance(size, Opaque) and size.arguments else size
    plain = isinstance(shape, tuple) and len(shape) <= 64 and all(type(one) is int and 0 <= one < MOST for one in shape)
    return shape if plain else None


def _plain(one: Any) -> Any:
    if isinstance(one, Opaque) and len(one.arguments) == 1 and isinstance(one.arguments[0], str) and not one.state:
        return one.arguments[0]
    return one


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
