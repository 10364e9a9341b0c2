"""The facts an examination gathers: small frozen values, each one thing that a rule can ask for by its type.

Gathering never raises for bad input. What could not be known is a :class:`Missing` with its reason, so that a rule
which needs it ends as "unknown", never as "clear".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar, cast

from adapter_doctor.findings import Hit, masked

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a fact is not known.

    ``waived`` is set when the user asked for it not to be looked at (``--load no``, ``--no-values``): the rule is then
    still listed as unknown, but the verdict does not wait for it.
    """

    why: str
    waived: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "why", masked(self.why))


@dataclass(frozen=True, slots=True)
class FileState:
    """What was found where a file was expected.

    ``state`` is one of ``ok``, ``absent``, ``empty``, ``pointer`` (Git LFS), ``html``, ``truncated``, ``unreadable``,
    ``too-large`` or ``unsafe``; ``detail`` is a clause for a person, without a full stop.
    """

    name: str
    state: str
    detail: str = ""
    size: int = 0

    @property
    def ok(self) -> bool:
        """Whether the file could be read as what it should be."""
        return self.state == "ok"


# ------------------------------------------------------------------------------------------------ the adapter


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """The place the adapter was looked for: does it exist, and which files lie there.

    ``files`` maps file names (relative, at most two levels deep) to sizes in bytes.
    """

    reference: str
    exists: bool
    why: str = ""
    reason: str = ""
    revision: str | None = None
    files: Mapping[str, int] = field(default_factory=dict)

    def nested(self) -> tuple[str, ...]:
        """Subfolders that hold an adapter of their own."""
        ends = ("/adapter_config.json", "/adapter_model.safetensors", "/adapter_model.bin")
        return tuple(sorted({name.rpartition("/")[0] for name in self.files if name.endswith(ends)}))


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The state of ``adapter_config.json``."""

    file: FileState


@dataclass(frozen=True)
class AdapterConfig:
    """The contents of ``adapter_config.json``, as written: nothing is defaulted, converted or checked here."""

    raw: Mapping[str, Any]

    def get(self, field_name: str, default: Any = None) -> Any:
        """The value of a field, or ``default`` where the file does not have it."""
        return self.raw.get(field_name, default)

    @property
    def peft_type(self) -> str:
        """The PEFT type as written, or ``""`` where it is missing or not a string."""
        value = self.raw.get("peft_type")
        return value if isinstance(value, str) else ""

    @property
    def task_type(self) -> str:
        """The task type as written, or ``""``."""
        value = self.raw.get("task_type")
        return value if isinstance(value, str) else ""

    @property
    def base_name(self) -> str:
        """``base_model_name_or_path``, or ``""``."""
        value = self.raw.get("base_model_name_or_path")
        return value if isinstance(value, str) else ""

    @property
    def is_prompt_learning(self) -> bool:
        """Whether the adapter is a learnt prompt, which has no target modules."""
        return self.peft_type in PROMPT_LEARNING


PROMPT_LEARNING = frozenset(
    {"PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE"}
)


@dataclass(frozen=True, slots=True)
class WeightsFiles:
    """The states of the adapter's weight files, the one PEFT takes first.

    ``chosen`` is None where no weight file exists. ``others`` are further files that hold weights or look as if:
    shards, other formats, the file that PEFT passes over.
    """

    chosen: FileState | None
    others: tuple[FileState, ...] = ()


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as its file describes it: safetensors' dtype name, shape, and the byte range of its values.

    ``axes`` is the order in which the axes lie in the file, slowest first, where it is not their own: torch saves a
    transposed tensor as it lay in memory.
    """

    dtype: str
    shape: Shape
    start: int = 0
    end: int = 0
    file: str = ""
    axes: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Number of elements."""
        total = 1
        for size in self.shape:
            total *= size
        return total


@dataclass(frozen=True)
class AdapterTensors:
    """The tensors in the weight file that PEFT would read, by name, without their values."""

    file: str
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Names and shapes."""
        return {name: info.shape for name, info in self.tensors.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@dataclass(frozen=True, slots=True)
class PickleScan:
    """What the opcodes of ``adapter_model.bin`` would call: ``globals`` beyond what a state dict of tensors needs."""

    file: str
    unexpected: tuple[str, ...] = ()
    dangerous: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ValueSummary:
    """The values of one tensor, summed up: largest magnitude, and how many are NaN or infinite."""

    peak: float
    nan: int = 0
    infinite: int = 0
    constant_one: bool = False

    @property
    def zero(self) -> bool:
        """Whether every value is zero."""
        return self.peak == 0 and not self.nan and not self.infinite


@dataclass(frozen=True, slots=True)
class TensorValues:
    """The values of every tensor, summed up, by tensor name."""

    summaries: Mapping[str, ValueSummary]


@dataclass(frozen=True, slots=True)
class UpdateNorms:
    """The Frobenius norm of what each LoRA module adds to its layer, scaling included, by the base's module names."""

    by_module: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class BaseCopies:
    """Tensors in the adapter that carry the name of a base weight, against the base's own values.

    Each name is in one of the sets: ``same`` bytes, ``different`` bytes, or ``unread`` where the base's values are not
    at hand.
    """

    same: frozenset[str] = frozenset()
    different: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()


# --------------------------------------------------------------------------------------------------- the base


@dataclass(frozen=True, slots=True)
class BaseFolder:
    """The place the base model was looked for.

    ``given`` is False where the adapter's config named it. ``adapter_base`` is what an ``adapter_config.json`` found in
    this folder names as its base; None where there is none. ``damage`` says what is wrong with its weight files, as far
    as they were looked at.
    """

    reference: str
    exists: bool
    why: str = ""
    reason: str = ""
    given: bool = True
    adapter_base: str | None = None
    revision: str | None = None
    files: Mapping[str, int] = field(default_factory=dict)
    damage: str = ""


@dataclass(frozen=True, slots=True)
class BaseConfig:
    """The base model's ``config.json``, as written."""

    raw: Mapping[str, Any]

    @property
    def model_type(self) -> str:
        """``model_type``, or ``""``."""
        value = self.raw.get("model_type")
        return value if isinstance(value, str) else ""

    @property
    def architectures(self) -> tuple[str, ...]:
        """The class names the checkpoint was saved from."""
        value = self.raw.get("architectures")
        return tuple(name for name in value if isinstance(name, str)) if isinstance(value, list) else ()

    @property
    def text(self) -> Mapping[str, Any]:
        """The part that describes the language model: ``text_config`` where there is one."""
        for key in ("text_config", "llm_config", "language_config", "thinker_config"):
            part = self.raw.get(key)
            if isinstance(part, dict):
                inner = part.get("text_config") if key == "thinker_config" else None
                return {**part, **(inner if isinstance(inner, dict) else {})}
        return self.raw

    @property
    def quantization(self) -> Mapping[str, Any] | None:
        """``quantization_config``, or None for an unquantised base."""
        value = self.raw.get("quantization_config") or self.raw.get("compression_config")
        return value if isinstance(value, dict) else None

    @property
    def quantization_method(self) -> str | None:
        """``quant_method`` (gptq, awq, bitsandbytes, fp8 …), or None for an unquantised base."""
        if self.quantization is None:
            return None
        method = self.quantization.get("quant_method")
        if isinstance(method, str):
            return method
        flags = ("load_in_4bit", "load_in_8bit")
        return "bitsandbytes" if any(self.quantization.get(flag) for flag in flags) else "unknown"

    @property
    def needs_remote_code(self) -> bool:
        """Whether the config points at code in the base's own repository."""
        auto_map = self.raw.get("auto_map")
        return isinstance(auto_map, dict) and bool(auto_map)

    def number(self, *names: str) -> int | None:
        """The first of the named fields that is a positive integer, looked up in the language model's part first."""
        for part in (self.text, self.raw):
            for name in names:
                value = part.get(name)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
        return None


@dataclass(frozen=True, slots=True)
class BaseCheckpoint:
    """Names, dtypes and shapes of the base's weights as its files have them; ``file`` of each is relative.

    ``packed`` are the shapes that bitsandbytes' 4-bit weights stand for, by name, where they were read.
    """

    tensors: Mapping[str, TensorInfo]
    packed: Mapping[str, Shape] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Module:
    """One module of the base model.

    ``kind`` is ``linear``, ``conv1d`` (transformers' transposed linear layer), ``embedding``, ``conv1``, ``conv2``,
    ``conv3``, ``attention`` (torch's MultiheadAttention), ``norm`` or ``other``. ``parameters`` are the shapes of its
    own parameters as torch stores them, so a Linear's ``weight`` is (out_features, in_features).
    """

    kind: str
    parameters: Mapping[str, Shape] = field(default_factory=dict)
    class_name: str = ""
    groups: int = 1

    @property
    def width(self) -> tuple[int, int] | None:
        """(out_features, in_features) of a layer that PEFT can adapt: (dim, rows) of an embedding; None otherwise."""
        weight = self.parameters.get("weight")
        if weight is None or len(weight) < 2:
            return None
        if self.kind in ("conv1d", "embedding"):
            return weight[1], weight[0]
        return weight[0], weight[1] * (self.groups if self.kind.startswith("conv") else 1)


@dataclass(frozen=True)
class BaseModules:
    """Every module of the base model by its dotted name, and where the names come from.

    ``origin`` is ``skeleton`` (the model was built without weights), ``cache`` (a skeleton built before), ``checkpoint``
    (derived from tensor names: modules without parameters are not in it) or ``memory`` (a model that was handed over).
    ``output_embedding`` names the head that ``all-linear`` leaves out.
    """

    modules: Mapping[str, Module]
    origin: Literal["skeleton", "cache", "checkpoint", "memory"]
    class_name: str = ""
    output_embedding: str | None = None
    tied: bool = False

    @cached_property
    def layer_counts(self) -> dict[str, int]:
        """Number of numbered children by the path of the list that holds them: ``model.layers`` → 32."""
        counts: dict[str, int] = {}
        for name in self.modules:
            parent, _, last = name.rpartition(".")
            if last.isdecimal():
                counts[parent] = max(counts.get(parent, 0), int(last) + 1)
        return counts

    @property
    def shares_embedding(self) -> bool:
        """Whether encoder and decoder use one embedding, kept under `shared`."""
        return any(name.rpartition(".")[2] == "shared" for name in self.modules)

    def parameters(self) -> Iterator[tuple[str, Shape]]:
        """Every parameter's dotted name and shape."""
        for name, module in self.modules.items():
            for parameter, shape in module.parameters.items():
                yield (f"{name}.{parameter}" if name else parameter), shape


# -------------------------------------------------------------------------------------- the environment, the load


@dataclass(frozen=True, slots=True)
class Environment:
    """Versions of what the load needs, from package metadata: a package that is not installed is None."""

    python: str
    packages: Mapping[str, str | None] = field(default_factory=dict)

    def version(self, package: str) -> str | None:
        """The installed version, or None."""
        return self.packages.get(package)


@dataclass(frozen=True, slots=True)
class Refusal:
    """PEFT (or transformers) raises: at which stage, and with what."""

    stage: str
    error: str
    message: str

    @property
    def line(self) -> str:
        """The exception as one line, shortened."""
        first = " ".join(self.message.split())
        return f"{self.error}: {first[:300]}{'…' if len(first) > 300 else ''}"


@dataclass(frozen=True, slots=True)
class Clash:
    """A tensor whose place in the model has another shape."""

    key: str
    in_file: Shape
    in_model: Shape


@dataclass(frozen=True)
class Fit:
    """Where the adapter's tensors go on this base: the one comparison that the rules of the fit read.

    ``places`` are the tensors that PEFT would save for this config on this base, by their names in a file. ``strays``
    are tensors in the file that find no place, ``vacant`` are places that get no tensor, ``overwriting`` are tensors
    that land on weights of the base itself. ``origin`` tells whether PEFT was asked (``measured``) or is foretold.
    """

    origin: Literal["measured", "predicted"]
    places: Mapping[str, Shape] = field(default_factory=dict)
    targeted: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    vacant: tuple[str, ...] = ()
    clashes: tuple[Clash, ...] = ()
    overwriting: tuple[str, ...] = ()
    converted: bool = False
    refusal: Refusal | None = None

    @cached_property
    def stray_set(self) -> frozenset[str]:
        """``strays``, for look-ups."""
        return frozenset(self.strays)


@dataclass(frozen=True, slots=True)
class Rename:
    """A rewrite of module paths: ``old`` becomes ``new``, at the path's front only or wherever it stands.

    ``count`` is the number of the adapter's module paths that exist in the base after it. ``steps`` are the regular
    expressions and replacements of transformers' own renames; ``old`` and ``new`` are then an example. ``more`` are
    further rewrites, for paths that this one leaves alone. ``rivals`` would fit as well and lead to other modules, so
    that shapes do not tell which is meant. ``release`` says which releases of a library have the old names. ``whose``
    says whose the other names are, where that is known.
    """

    old: str
    new: str
    count: int
    front: bool = False
    steps: tuple[tuple[str, str], ...] = ()
    more: tuple[Rename, ...] = ()
    rivals: tuple[str, ...] = ()
    release: str = ""
    whose: str = ""

    def __str__(self) -> str:
        return ", and ".join(one.alone for one in (self, *self.more))

    @property
    def alone(self) -> str:
        """The rewrite without those in ``more``, in words."""
        if self.steps:
            kind = "such as" if self.whose else "transformers' own on load, such as"
            return f"{kind} `{self.old}` → `{self.new}`"
        if not self.old:
            return f"`{self.new}.` added in front"
        if not self.new:
            return f"`{self.old}.` removed"
        return f"`{self.old}.` → `{self.new}.`"


@dataclass(frozen=True, slots=True)
class Fused:
    """The parts of a fused layer, by their module paths, in the order of its rows.

    ``grouped``: its rows are those of one key/value head after the other, with the query heads of each before it.
    """

    parts: tuple[str, ...]
    grouped: bool = False


@dataclass(frozen=True)
class RemoteCode:
    """Module names of code in a base's own repository on one side, of transformers' class of that model on the other.

    ``in_adapter`` tells which side is the adapter's: it has the names of the remote code, or the base has. ``whose``
    names that code, ``built_in`` is transformers' model type, there ``since`` a release; without one, the base is a copy
    in that type's layout. ``repository`` has the code (empty: the base itself has), ``converted`` is a base for
    transformers' class. ``load`` says how the code is loaded, ``needs`` is the transformers that it is known to run with.
    ``fused`` are the layers that are one on the side of the remote code, by their paths there. ``leaves`` are the last
    names of all modules on the adapter's side.
    """

    whose: str
    built_in: str
    since: str
    in_adapter: bool
    repository: str = ""
    converted: str = ""
    load: str = ""
    needs: str = ""
    fused: Mapping[str, Fused] = field(default_factory=dict)
    leaves: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Dimension:
    """A size of the model that the adapter's tensors tell, against the base's: hidden size, layers, vocabulary …

    ``in_base`` is None where the base has nothing of the kind.
    """

    name: str
    in_adapter: int
    in_base: int | None

    @property
    def agrees(self) -> bool:
        """Whether both are the same."""
        return self.in_adapter == self.in_base


@dataclass(frozen=True, slots=True)
class Candidates:
    """Known bases by how the adapter's tensors fit them: exactly, all but the vocabulary, or under other names."""

    exact: tuple[str, ...] = ()
    but_vocabulary: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The adapter's tensors against the base's modules: why each tensor that finds no place finds none.

    ``strays`` maps a reason to the tensors it holds for; each stray tensor is under exactly one reason: ``wrapper``,
    ``double-prefix``, ``no-prefix``, ``adapter-name``, ``renamed``, ``fused``, ``experts``, ``unconverted`` (PEFT moved
    the target to fused experts), ``layer``, ``switched-off`` (the base has the module, the config does not call for the
    tensor), ``absent`` or ``foreign`` (no adapter tensor).
    ``vacant`` maps a reason to the places without tensor: ``covered`` (a stray tensor belongs there), ``half`` (its
    pair is in the file), ``saved``, ``deeper`` (layers beyond the adapter's), ``gap`` (one layer or one kind of module
    missing), ``missing``. ``clashes`` does the same for shapes: ``rank``, ``width``, ``rows``, ``layout``, ``empty``.
    ``remote`` is there where the names of a model's remote code account for the strays.
    """

    strays: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    vacant: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    clashes: Mapping[str, tuple[Clash, ...]] = field(default_factory=dict)
    rename: Rename | None = None
    remote: RemoteCode | None = None
    dimensions: tuple[Dimension, ...] = ()
    shared_modules: int = 0
    adapter_modules: int = 0

    @property
    def of_another_size(self) -> bool:
        """Whether the adapter's hidden size is not the base's: then names that nearly fit are chance."""
        return any(one.name == "hidden size" and one.in_base and not one.agrees for one in self.dimensions)


@dataclass(frozen=True)
class LoadOutcome:
    """What happened when the adapter was loaded onto the base, told tensor by tensor.

    ``stand_in``: the base was a model made of the checkpoint's names and shapes, because its own code was not run.
    ``extent`` is ``skeleton`` or ``full``; ``died`` holds the reason when the child process ended without an answer.
    ``pass_refused`` is why the first forward pass cannot use the adapter, though it loads; None where that is not known.
    """

    extent: Literal["skeleton", "full"]
    class_name: str = ""
    in_file: int = 0
    landed: int = 0
    ignored: tuple[str, ...] = ()
    left_at_init: tuple[str, ...] = ()
    clashes: tuple[Clash, ...] = ()
    overwritten: tuple[str, ...] = ()
    refusal: Refusal | None = None
    died: str = ""
    warnings: tuple[str, ...] = ()
    scaling: Mapping[str, float] = field(default_factory=dict)
    changed_base: tuple[str, ...] = ()
    stand_in: bool = False
    pass_refused: str | None = ""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """A forward pass with the adapter on and off: the largest differences of the outputs, and whether all is finite."""

    difference: float = 0.0
    finite: bool = True
    finite_without: bool = True
    refusal: Refusal | None = None


# ------------------------------------------------------------------------------------------------------- serving


@dataclass(frozen=True, slots=True)
class Effect:
    """What a serving engine makes of one trait of the adapter.

    ``outcome`` is ``refused``, ``late`` (it loads, and the first request fails), ``wrong`` (other outputs than trained,
    without an error), ``unknown``, ``inapplicable`` or ``served``. ``message`` holds the engine's own words, ``why`` is
    a clause for a person. ``dropped`` counts tensors without effect; ``factors`` are the smallest and the largest ratio
    of the scaling in effect to the one trained. ``evidence`` is ``ran``, ``source`` or ``issue``, of ``source``.
    """

    trait: str
    outcome: str
    why: str = ""
    message: str = ""
    dropped: int = 0
    factors: tuple[float, float] | None = None
    fix: str = ""
    flags: str = ""
    evidence: str = ""
    source: str = ""


OUTCOMES = ("refused", "late", "wrong", "unknown", "inapplicable", "served")
"""What can become of an adapter in an engine, the worst first."""


@dataclass(frozen=True)
class Outlook:
    """What an engine, at a version, is foreseen to do with an adapter, and what to start it with.

    ``required`` tells an engine that was asked for by name from one of an overview. ``adapter`` is set where it is not
    the adapter under examination but one served beside it. ``tensors`` is the number of tensors in the file.
    """

    engine: str
    version: str
    effects: tuple[Effect, ...] = ()
    required: bool = True
    adapter: str = ""
    tensors: int = 0
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """The worst of the effects'; ``served`` only where every trait is known to be honoured."""
        return min((one.outcome for one in self.effects), key=OUTCOMES.index, default="served")

    @property
    def dropped(self) -> int:
        """Tensors without effect, of all effects."""
        return min(self.tensors, sum(one.dropped for one in self.effects))


@dataclass(frozen=True, slots=True)
class Serving:
    """The engines asked about, and what keeps several adapters from being served by one of them."""

    outlooks: tuple[Outlook, ...] = ()
    clashes: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------- the upload


@dataclass(frozen=True, slots=True)
class UploadContents:
    """The files that an upload would send, and those it leaves out.

    ``files`` maps names to sizes in bytes; ``included`` maps those among them that are no part of an adapter, and
    ``left_out`` those that stay here, to what they are.
    """

    files: Mapping[str, int]
    included: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """``README.md`` as a model card: its metadata as written, and ``trouble`` where they cannot be read."""

    present: bool
    metadata: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""

    def names(self, key: str) -> tuple[str, ...]:
        """The strings under a key, be it one or a list of them."""
        value = self.metadata.get(key)
        return tuple(one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and one)


@dataclass(frozen=True, slots=True)
class Secret:
    """A token or key in a text file: where, of which kind, and what may be shown of it."""

    file: str
    line: int
    kind: str
    masked: str


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets in the text files that an upload would send; ``unread`` could not be searched whole."""

    found: tuple[Secret, ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BaseAccess:
    """What somebody without a token meets at the base that the config names: ``public``, ``gated`` or ``absent``."""

    reference: str
    state: Literal["public", "gated", "absent"]


# -------------------------------------------------------------------------------------------- a training checkpoint


@dataclass(frozen=True, slots=True)
class MomentsPart:
    """Where a part of a parameter's moment lies, in a file of one of several processes."""

    parameter: int | str
    name: str
    info: TensorInfo


@dataclass(frozen=True, slots=True)
class Shards:
    """The files in which an engine kept the optimizer's state apart, a part for each of ``world`` processes (0: not known).

    ``folder`` is that of the step, ``lost`` are files that are due and not there, ``broken`` those that cannot be read,
    with why, and ``empty`` names the one that should hold the adapter and holds nothing. ``parts`` tell where the
    moments lie, where the state could be put together; ``packed`` that a file of torch's stands there for each.
    """

    folder: str
    world: int
    lost: tuple[str, ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    empty: str = ""
    parts: tuple[MomentsPart, ...] = field(default=(), repr=False)
    packed: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A training checkpoint as it was found: who wrote it, which files lie there, and in what state.

    ``writer`` is ``trainer`` (transformers' Trainer), ``deepspeed``, ``fsdp``, ``accelerate`` or ``torch`` (a file
    saved by hand). ``states`` are those of the files that a resume opens; ``world`` is the number of processes that the
    files show. Where an output folder was given, ``broken`` are newer checkpoints in it with why each was passed over,
    and ``older`` are further usable ones, newest first. ``siblings`` are adapter configs of the other checkpoints.
    ``shards`` are the files of an engine that keeps the optimizer's state apart.
    """

    reference: str
    files: Mapping[str, int]
    states: Mapping[str, FileState]
    writer: str = "trainer"
    optimizer: str = "optimizer.pt"
    adapter_folder: str = ""
    world: int = 1
    broken: tuple[tuple[str, str], ...] = ()
    older: tuple[str, ...] = ()
    siblings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shards: Shards | None = None

    def state(self, name: str) -> FileState:
        """The state of a file; ``absent`` where it is not there."""
        return self.states.get(name, FileState(name, "absent", f"there is no {name}"))

    @property
    def by_accelerate(self) -> bool:
        """Whether `accelerator.save_state` wrote it, by itself or with an engine, and no Trainer."""
        random = any(name.startswith("random_states_") for name in self.files)
        return self.writer == "accelerate" or (random and "trainer_state.json" not in self.files)


@dataclass(frozen=True, slots=True)
class Moments:
    """What an optimizer keeps of one parameter: tensors by name, and numbers by name."""

    tensors: Mapping[str, TensorInfo]
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        yield from self.tensors
        yield from self.numbers


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """One parameter group: the ids of its parameters, their names where they were saved, and its options."""

    parameters: tuple[int | str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class OptimizerState:
    """A saved optimizer's state: its groups, and the moments of each parameter by id.

    ``extra`` are top-level keys beyond `state` and `param_groups`, or ids that no group has; ``absent`` are those of
    the two that are not there; ``inside`` is the key under which the state lies, where the file holds more than it.
    """

    file: str
    groups: tuple[ParameterGroup, ...]
    moments: Mapping[int | str, Moments]
    extra: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    inside: str = ""
    steps: tuple[float, ...] = ()

    @cached_property
    def order(self) -> tuple[int | str, ...]:
        """The ids in the order in which torch pairs them with the optimizer's parameters."""
        return tuple(one for group in self.groups for one in group.parameters)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Parameters per group."""
        return tuple(len(group.parameters) for group in self.groups)


@dataclass(frozen=True, slots=True)
class OptimizerValues:
    """What only the values of the moments tell. ``misplaced`` are (id, id it belongs to) pairs; see AD805."""

    not_finite: tuple[int | str, ...] = ()
    misplaced: tuple[tuple[int | str, int | str], ...] = ()


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """The saved learning rate schedule, as written in ``file``; tensors and objects are left out."""

    raw: Mapping[str, Any]
    file: str = "scheduler.pt"

    @property
    def step(self) -> int | None:
        """Steps that the schedule has made."""
        value = self.raw.get("last_epoch")
        return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(frozen=True, slots=True)
class TrainerState:
    """`trainer_state.json` as written."""

    raw: Mapping[str, Any]

    def number(self, name: str) -> int | None:
        """A field that is a whole number, or None."""
        value = self.raw.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(frozen=True, slots=True)
class ResumePlan:
    """What is known of the run that is to go on: what the user says, else the checkpoint's own `training_args.bin`.

    ``told`` are the names of what the user said. ``config`` is the adapter config that the code makes, where known.
    """

    optimizer: str | None = None
    world: int | None = None
    batch: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    told: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Trainable:
    """One parameter that trains: its name in the PeftModel, shape, dtype, and whether the Trainer decays its weight.

    ``key`` is its name in the adapter's file, or "" where the file has no place for it. ``place`` is its number among
    all parameters of the model, frozen ones too, or None where that is not known.
    """

    name: str
    shape: Shape
    decays: bool = True
    key: str = ""
    dtype: str = "F32"
    place: int | None = None


@dataclass(frozen=True)
class TrainableParameters:
    """The parameters that this adapter makes trainable on this base, in the model's own order.

    ``ordered`` is False where the base's names come from its checkpoint, whose order is not the model's. ``total``
    counts all parameters, frozen ones too; 0 where that is not known.
    """

    origin: Literal["measured", "predicted"]
    parameters: tuple[Trainable, ...]
    ordered: bool = True
    total: int = 0

    @cached_property
    def groups(self) -> tuple[tuple[Trainable, ...], tuple[Trainable, ...]]:
        """The Trainer's two groups: parameters with weight decay, then those without (Trainer.create_optimizer)."""
        return (
            tuple(one for one in self.parameters if one.decays),
            tuple(one for one in self.parameters if not one.decays),
        )

    @property
    def order(self) -> tuple[Trainable, ...]:
        """The parameters as the Trainer's optimizer numbers them."""
        return self.groups[0] + self.groups[1]


# ------------------------------------------------------------------------------------------------------ a text


@dataclass(frozen=True, slots=True)
class Message:
    """A library's message in a text: the ``form`` that it has, the rule it speaks of, and where it stands.

    ``says`` is the message in this project's words, ``quote`` its own; ``line`` counts from 1, 0 where it is not known.
    """

    form: str
    code: str
    says: str
    fix: str | None = None
    line: int = 0
    quote: str = ""

    @property
    def hit(self) -> Hit:
        """The message as a sighting of the defect that it speaks of."""
        where = f"line {self.line}" if self.line else None
        return Hit(self.says, where, examples=(self.quote,) if self.quote else (), fix=self.fix)


@dataclass(frozen=True)
class Messages:
    """The messages in a text that are known, in their order."""

    found: tuple[Message, ...] = ()

    def hits(self, code: str) -> Iterator[Hit]:
        """The sightings of one rule's defect."""
        return (message.hit for message in self.found if message.code == code)


@dataclass(frozen=True)
class StateDictMismatch:
    """What `load_state_dict` said of a state dict that is no adapter: the names it listed, each under one reason.

    ``missing`` are the model's names that the state dict lacks, ``unexpected`` the state dict's that the model lacks,
    ``clashes`` names that both have with different shapes. ``cut`` is set where the text breaks off inside a list.
    ``reasons`` maps to the names of the state dict (or of the model, where it lacks them): ``checkpoint`` (a training
    checkpoint around it), ``optimizer``, ``adapter``, ``no-adapter``, ``frozen``, ``prefix``, ``renamed``, ``layers``,
    ``rank``, ``rows``, ``head``, ``width``, ``architecture``, ``buffers``, ``missing``, ``unexpected``. ``rename`` belongs to
    ``prefix`` and ``renamed``; ``layers`` are the numbers of layers in the state dict and the model.
    """

    class_name: str = ""
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    clashes: tuple[Clash, ...] = ()
    cut: bool = False
    reasons: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rename: Rename | None = None
    layers: tuple[int, int] | None = None

    @property
    def clash(self) -> Mapping[str, Clash]:
        """The clashes by name."""
        return {one.key: one for one in self.clashes}


Fact = TypeVar("Fact")


@dataclass(frozen=True)
class Facts:
    """All facts of one examination, by their type."""

    known: Mapping[type, object] = field(default_factory=dict)

    def get(self, kind: type[Fact]) -> Fact | Missing:
        """The fact of this type, or why it is missing."""
        return cast("Fact | Missing", self.known.get(kind, Missing("it was not gathered")))

    def adding(self, *facts: object) -> Facts:
        """A copy with more facts, each under its own type."""
        return Facts({**self.known, **{type(fact): fact for fact in facts}})

    def lacking(self, why: Missing, *kinds: type) -> Facts:
        """A copy in which the facts of these types are missing; what is known, or missing for a reason, stays so."""
        return Facts({**dict.fromkeys(kinds, why), **self.known})
