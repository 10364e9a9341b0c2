"""The adapter on its base as a picture: for each kind of module and each layer, what became of the tensors there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adapter_doctor.facts import (
    AdapterConfig,
    AdapterTensors,
    BaseModules,
    Facts,
    Fit,
    LoadOutcome,
    Missing,
    Shape,
    TensorValues,
    UpdateNorms,
)
from adapter_doctor.formats.adapter_keys import PREFIX, parse
from adapter_doctor.formats.declared_ranks import scaling_of
from adapter_doctor.formats.updates import gates

STATES = ("wrong shape", "ignored", "left at init", "not finite", "zero", "refused", "landed", "fits", "not examined")
"""What can become of a module's tensors, the worst first. ``fits`` is foretold from files, ``refused`` fits an adapter
that PEFT refuses for another reason, ``zero`` has no effect."""
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_MOST_SCALINGS = 5_000
_ADAPTABLE = ("linear", "conv1d", "embedding")
_MOST_UNTOUCHED = 30


@dataclass(frozen=True, slots=True)
class Cell:
    """The modules of one kind in one layer: mostly one, for experts many.

    ``kind`` is the module's path with `*` for numbers; ``layer`` is None where the path has none. ``states`` counts the
    modules by state, the worst first. ``tensors`` are the adapter's, by parameter, with shapes; ``norm`` is the
    Frobenius norm of the update, scaling included (the largest where there are several).
    """

    kind: str
    layer: int | None
    states: tuple[tuple[str, int], ...]
    tensors: tuple[tuple[str, Shape], ...] = ()
    rank: int | None = None
    scaling: float | None = None
    norm: float | None = None

    @property
    def state(self) -> str:
        """The worst state."""
        return self.states[0][0]


@dataclass(frozen=True, slots=True)
class Picture:
    """Cells, and the ``kinds`` that are rows, in the order of the base's modules; some have no cells, for nothing was trained.

    ``layers`` says how many layers the base has below each list of layers.
    """

    cells: tuple[Cell, ...] = ()
    kinds: tuple[str, ...] = ()
    layers: tuple[tuple[str, int], ...] = ()


def draw(facts: Facts) -> Picture:
    """The picture, as far as the facts go; an empty one where the adapter's tensors are not known."""
    tensors, config = facts.get(AdapterTensors), facts.get(AdapterConfig)
    if isinstance(tensors, Missing):
        return Picture()
    states = _tensor_states(facts, tensors)
    parts: dict[str, dict[str, str]] = defaultdict(dict)  # module: tensor name: state
    for name, state in states.items():
        parts[_module(name)][name] = state
    norms, outcome = facts.get(UpdateNorms), facts.get(LoadOutcome)
    by_norm = norms.by_module if isinstance(norms, UpdateNorms) else {}
    scalings = dict(outcome.scaling) if isinstance(outcome, LoadOutcome) else {}
    if (
        not scalings
        and isinstance(config, AdapterConfig)
        and config.peft_type == "LORA"
        and len(parts) < _MOST_SCALINGS
    ):
        scalings = _scalings(config, parts)
    grouped: dict[tuple[str, int | None], list[str]] = defaultdict(list)
    for module in parts:
        grouped[_place(module)].append(module)
    shapes = tensors.shapes
    cells = [
        _cell(kind, layer, modules, parts, shapes, scalings, by_norm) for (kind, layer), modules in grouped.items()
    ]
    base = facts.get(BaseModules)
    untouched: list[str] = []
    order: dict[str, int] = {}
    counts: Mapping[str, int] = {}
    if isinstance(base, BaseModules):
        placed = [(_place(name)[0], module.kind in _ADAPTABLE) for name, module in base.modules.items()]
        order = {kind: at for at, (kind, _) in enumerate(dict(placed).items())}
        untouched = [kind for kind, adaptable in dict(placed).items() if adaptable][:_MOST_UNTOUCHED]
        counts = base.layer_counts
    cells.sort(key=lambda one: (order.get(one.kind, len(order)), one.kind, -1 if one.layer is None else one.layer))
    kinds = sorted(
        dict.fromkeys([*(one.kind for one in cells), *untouched]), key=lambda one: order.get(one, len(order))
    )
    stems = dict.fromkeys(kind.partition(".*")[0] for kind in kinds if ".*" in kind)
    return Picture(tuple(cells), tuple(kinds), tuple((stem, counts.get(stem, 0)) for stem in stems))


def _tensor_states(facts: Facts, tensors: AdapterTensors) -> dict[str, str]:
    """The state of each tensor in the file, and of each place that got none."""
    fit, outcome = facts.get(Fit), facts.get(LoadOutcome)
    measured = isinstance(outcome, LoadOutcome) and not outcome.died and bool(outcome.in_file)
    if isinstance(fit, Missing) or (not fit.places and not measured):
        usual = "not examined"
    elif isinstance(outcome, LoadOutcome):
        usual = "refused" if outcome.refusal is not None else "landed"
    else:
        usual = "fits" if fit.refusal is None else "refused"
    states = dict.fromkeys(tensors, usual)
    config, values = facts.get(AdapterConfig), facts.get(TensorValues)
    if isinstance(values, TensorValues):
        idle = gates(config, tensors, values).idle if isinstance(config, AdapterConfig) else ()
        states.update(dict.fromkeys(idle, "zero"))
        for name, summary in values.summaries.items():
            if summary.nan or summary.infinite:
                states[name] = "not finite"
    if not isinstance(fit, Missing):
        states.update(dict.fromkeys(fit.vacant, "left at init"))
        states.update(dict.fromkeys(fit.strays, "ignored"))
        states.update((one.key, "wrong shape") for one in fit.clashes)
    return states


def _module(name: str) -> str:
    """The base's module that a tensor is for; a saved one's name ends in a parameter of its own."""
    parsed = parse(name)
    if parsed is not None and parsed.module:
        return re.sub(r"(\.base_layer)+$", "", parsed.module)
    bare = name.removeprefix(PREFIX)
    return re.sub(r"(\.modules_to_save(\.default)?|\.base_layer)?\.(weight|bias)$", "", bare) or bare


def _place(module: str) -> tuple[str, int | None]:
    """The kind of a module, with `*` for every number in its path, and the first of these numbers: its layer."""
    number = _NUMBER.search(module)
    return _NUMBER.sub("*", module), None if number is None else int(number[0])


def _scalings(config: AdapterConfig, modules: Iterable[str]) -> dict[str, float]:
    found = {}
    for module in modules:
        try:
            found[module] = scaling_of(config, module)
        except (TypeError, ValueError):  # the rules of the config have told
            return {}
    return found


def _cell(
    kind: str,
    layer: int | None,
    modules: list[str],
    parts: Mapping[str, Mapping[str, str]],
    shapes: Mapping[str, Shape],
    scalings: Mapping[str, float],
    norms: Mapping[str, float],
) -> Cell:
    worst = [min(parts[module].values(), key=STATES.index) for module in modules]
    counts = {state: worst.count(state) for state in STATES if state in worst}
    first = next((one for one in modules if any(name in shapes for name in parts[one])), modules[0])
    tensors = tuple((_parameter(name), shapes[name]) for name in sorted(parts[first]) if name in shapes)
    rank = next((shape[0] for name, shape in tensors if name in ("lora_A", "lora_embedding_A") and shape), None)
    own_norms = [norms[module] for module in modules if module in norms]
    lora = any(name.startswith("lora_") for name, _ in tensors)
    return Cell(
        kind, layer, tuple(counts.items()), tensors, rank, scalings.get(first) if lora else None,
        max(own_norms) if own_norms else None,
    )  # fmt: skip


def _parameter(name: str) -> str:
    parsed = parse(name)
    return parsed.parameter if parsed is not None else name.rpartition(".")[2]
