"""List the tensors inside a ``torch.save`` file from its zip directory and pickle opcodes, without unpickling.

A small stack machine follows the opcodes and builds inert values only: it never imports, never calls. What it does not
know becomes an opaque mark. Which globals a pickle names is told apart by picklescan.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapter_doctor.facts import TensorInfo
from adapter_doctor.formats import common_opcodes
from adapter_doctor.formats.torch_dtypes import DTYPES

MAX_PICKLE = 50_000_000
MAX_OPCODES = 5_000_000
MAX_ENTRIES = 500_000

_PLAIN = frozenset({"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "LONG1"})
"""Opcodes whose value is their argument."""

_HARMLESS = frozenset(
    {
        ("collections", "OrderedDict"),
        ("torch", "device"),
        ("torch", "Size"),
        ("torch.nn.parameter", "Parameter"),
        ("torch.serialization", "_get_layout"),
        ("torch._tensor", "_rebuild_from_type_v2"),
        *(("torch._utils", name) for name in (
            "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter",
            "_rebuild_parameter_with_state", "_rebuild_meta_tensor_no_storage", "_rebuild_wrapper_subclass",
        )),
        *((f"torchao.optim.subclass_{bits}", f"OptimState{bits}") for bits in ("4bit", "8bit")),
        ("torchao.optim.subclass_fp8", "OptimStateFp8"),
    }
)  # fmt: skip
"""Globals that ``torch.load(weights_only=True)`` allows and a state dict uses (torch/_weights_only_unpickler.py).

torchao allows its own as soon as it is imported, which an optimizer of its does.
"""

_KEYS = frozenset({"torch.distributed.checkpoint.metadata.MetadataIndex"})
"""Objects that are kept where they are the keys of a dict."""


class BadPickle(ValueError):
    """Not a usable torch file. ``state`` is as in :class:`adapter_doctor.facts.FileState`."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(message)
        self.state = state


@dataclass(frozen=True, slots=True)
class Listing:
    """What a torch file holds: the outermost value with tensors as :class:`TensorInfo`, and the globals it names.

    Those ``called``, as ``module.name``, are called as functions; of others only objects are made, without `__init__`.
    """

    value: Any
    globals: tuple[tuple[str, str], ...]
    pickle: bytes
    called: frozenset[str] = frozenset()

    @property
    def unexpected(self) -> tuple[str, ...]:
        """Globals beyond what a state dict of tensors needs, as ``module.name``."""
        return tuple(f"{module}.{name}" for module, name in self.globals if not _harmless(module, name))

    def tensors(self) -> Mapping[str, TensorInfo]:
        """The tensors at the top level, by name; empty where the outermost value is not a dict."""
        if not isinstance(self.value, dict):
            return {}
        return {key: one for key, one in self.value.items() if isinstance(key, str) and isinstance(one, TensorInfo)}


def _harmless(module: str, name: str) -> bool:
    return (module, name) in _HARMLESS or (module in ("torch", "torch.storage") and name in DTYPES)


def read_listing(
    file: io.BufferedIOBase | io.RawIOBase, size: int, name: str = "", *, placed: int | None = None
) -> Listing:
    """The listing of an open torch file of ``size`` bytes, whether zip (torch ≥ 1.6) or the older plain pickles.

    Where a tensor's bytes lie takes a short read for each: only those of up to ``placed`` elements are looked for.

    Raises:
        BadPickle: a pointer or web page, a damaged zip, too large, or no pickle at all.
    """
    first = file.read(64)
    file.seek(0)
    if size == 0:
        raise BadPickle("empty", "the file is empty")
    if first.startswith(b"version https://git-lfs"):
        raise BadPickle("pointer", "it is a Git LFS pointer, not the weights")
    if first.lstrip().lower().startswith((b"<!doc", b"<html", b"<?xml")):
        raise BadPickle("html", "it is a web page, not the weights")
    if first.startswith(b"PK\x03\x04"):
        return _from_zip(file, name, placed)
    return _from_plain(file, size)


def _from_zip(file: Any, name: str, placed: int | None) -> Listing:
    try:
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
        if len(entries) > MAX_ENTRIES:
            raise BadPickle("unreadable", f"the zip holds {len(entries):,} entries")
        inner = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if len(inner) != 1:
            # torch takes one by rules of its own; a file with several is made to be read in two ways.
            raise BadPickle("unreadable", f"the zip holds {len(inner)} entries that end in data.pkl, expected one")
        with archive.open(inner[0]) as opened:
            pickle = opened.read(MAX_PICKLE + 1)
        if len(pickle) > MAX_PICKLE:
            raise BadPickle("too-large", f"its pickle takes more than {MAX_PICKLE:,} bytes")
    except BadPickle:
        raise
    except Exception as error:  # zipfile raises many kinds for a damaged or hostile file; none is a bug of ours
        raise BadPickle("truncated", f"the zip cannot be read ({str(error)[:80]})") from None
    folder = inner[0].filename.removesuffix("data.pkl")
    # Compressed values have no place in the file that could be read as it is.
    stored = {entry.filename: entry for entry in entries if entry.compress_type == zipfile.ZIP_STORED}

    def start_of(key: str) -> int:
        entry = stored.get(f"{folder}data/{key}")
        return _data_start(file, entry) if entry is not None else 0

    machine = _Machine(pickle, name, start_of, placed)
    return Listing(machine.run()[0], tuple(machine.names), pickle, frozenset(machine.called))


def _data_start(file: Any, entry: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: behind its local header, whose two lengths may differ from the directory's."""
    file.seek(entry.header_offset + 26)
    lengths = file.read(4)
    if len(lengths) < 4:
        raise BadPickle("truncated", f"the entry {entry.filename[:80]!r} lies beyond the end of the file")
    name_length, extra_length = struct.unpack("<HH", lengths)
    return int(entry.header_offset + 30 + name_length + extra_length)


def _from_plain(file: Any, size: int) -> Listing:
    """Before torch 1.6: magic number, protocol, system, the value, storage keys: a pickle each. Or one bare pickle."""
    data = file.read(min(size, MAX_PICKLE))
    position = 0
    values: list[Any] = []
    names: list[tuple[str, str]] = []
    pickles: list[bytes] = []
    called: set[str] = set()
    while position < len(data) and len(values) < 5:
        try:
            value, found, used = _Machine(data[position:], "", lambda _: 0, called=called).run()
        except BadPickle:
            if not values:
                raise
            break
        values.append(value)
        names.extend(found)
        pickles.append(data[position : position + used])
        position += used
        if len(values) == 1 and value != 0x1950A86A20F9469CFC6C:  # torch's magic number
            break
    value = values[3] if len(values) > 3 else values[-1]  # the storage keys come after the value
    return Listing(value, tuple(dict.fromkeys(names)), b"".join(pickles), frozenset(called))


@dataclass
class _Machine:
    """Follows one pickle's opcodes; tensors become TensorInfo, every other call an opaque mark."""

    pickle: bytes
    file: str
    start_of: Callable[[str], int]
    placed: int | None = None
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    names: dict[tuple[str, str], None] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)

    def run(self) -> tuple[Any, tuple[tuple[str, str], ...], int]:
        """The value, the globals named, and how many bytes the pickle took."""
        count = position = 0
        stream = io.BytesIO(self.pickle)
        machine = self.stack, self.marks, self.memo, self._call, _Storage.from_id
        try:
            while count < MAX_OPCODES:
                position, done = common_opcodes.follow(self.pickle, position, MAX_OPCODES - count, *machine)
                stream.seek(position)
                opcode, argument, _ = next(pickletools.genops(stream))
                count += done + 1
                position = stream.tell()
                if opcode.name == "STOP":
                    return (self.stack.pop() if self.stack else None), tuple(self.names), position
                self._step(opcode.name, argument)
            raise BadPickle("too-large", f"its pickle has more than {MAX_OPCODES:,} opcodes")
        except BadPickle:
            raise
        except Exception as error:  # pickletools and a broken stack raise many kinds; none says more than "broken"
            short = "exhausted" in str(error) or "not enough data" in str(error)
            state = "truncated" if short else "unreadable"
            raise BadPickle(state, f"it is neither a zip nor a readable pickle ({str(error)[:80]})") from None

    def _step(self, op: str, argument: Any) -> None:
        stack = self.stack
        if op in _PLAIN:  # first what a large state has most of
            stack.append(argument)
        elif op in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(argument)] = stack[-1]
        elif op in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[int(argument)])
        elif op in ("MARK",):
            self.marks.append(len(stack))
        elif op in ("EMPTY_DICT",):
            stack.append({})
        elif op in ("EMPTY_LIST", "EMPTY_SET"):
            stack.append([])
        elif op == "EMPTY_TUPLE":
            stack.append(())
        elif op in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [stack.pop() for _ in range(int(op[-1]))]
            stack.append(tuple(reversed(items)))
        elif op in ("TUPLE", "LIST", "FROZENSET"):
            items = self._to_mark()
            stack.append(items if op == "LIST" else tuple(items))
        elif op == "DICT":
            items = self._to_mark()
            stack.append(dict(zip(items[::2], items[1::2], strict=False)))
        elif op == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self._set(key, value)
        elif op == "SETITEMS":
            items = self._to_mark()
            for key, value in zip(items[::2], items[1::2], strict=False):
                self._set(key, value)
        elif op in ("APPEND",):
            value = stack.pop()
            if isinstance(stack[-1], list):
                stack[-1].append(value)
        elif op in ("APPENDS", "ADDITEMS"):
            items = self._to_mark()
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif op == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif op in ("GLOBAL", "INST"):
            module, _, name = argument.partition(" ")
            one = self._global(module, name)
            stack.append(self._call(one, tuple(self._to_mark())) if op == "INST" else one)
        elif op == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            named = isinstance(module, str) and isinstance(name, str)
            stack.append(self._global(module, name) if named else self._global("?", "?"))
        elif op in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, arguments, op == "REDUCE"))
        elif op == "NEWOBJ_EX":
            stack[-3:] = [Opaque("object")]
        elif op == "OBJ":
            function, *rest = self._to_mark()
            stack.append(self._call(function, tuple(rest)))
        elif op == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Opaque) and isinstance(state, dict):
                stack[-1].state = state
            elif isinstance(stack[-1], Opaque) and isinstance(state, tuple):
                stack[-1].arguments = state
        elif op == "BINPERSID":
            stack.append(_Storage.from_id(stack.pop()))
        elif op == "PERSID":
            stack.append(Opaque(argument))
        elif op == "POP":
            (self.marks if self.marks and self.marks[-1] == len(stack) else stack).pop()
        elif op == "POP_MARK":
            self._to_mark()
        elif op == "DUP":
            stack.append(stack[-1])
        elif op in ("PROTO", "FRAME", "READONLY_BUFFER"):
            pass
        elif op in ("NEWTRUE", "NEWFALSE"):
            stack.append(op == "NEWTRUE")
        elif op == "NONE":
            stack.append(None)
        elif op in ("EXT1", "EXT2", "EXT4"):
            stack.append(self._global("copyreg", f"extension {argument}"))
        else:  # numbers, strings and bytes carry their value as the argument
            stack.append(argument)

    def _to_mark(self) -> list[Any]:
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def _set(self, key: Any, value: Any) -> None:
        target = self.stack[-1]
        plain = isinstance(key, (str, int)) or (isinstance(key, Opaque) and key.name in _KEYS)
        if isinstance(target, dict) and plain:
            target[key] = value

    def _global(self, module: str, name: str) -> Opaque:
        self.names[module, name] = None
        return Opaque(f"{module}.{name}")

    def _call(self, function: Any, arguments: Any, as_function: bool = True) -> Any:
        called = function.name if isinstance(function, Opaque) else ""
        if called == "collections.OrderedDict":
            pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
            return {pair[0]: pair[1] for pair in pairs if isinstance(pair, (tuple, list)) and len(pair) == 2}
        if called.startswith("torch._utils._rebuild_tensor") and len(arguments) >= 3:
            return self._tensor(*arguments)
        if called.startswith("torch._utils._rebuild_parameter") and arguments:
            return arguments[0]
        if called == "torch._tensor._rebuild_from_type_v2" and len(arguments) >= 3:
            return self._call(arguments[0], arguments[2])
        if called == "torch._utils._rebuild_wrapper_subclass" and len(arguments) >= 3:
            return _wrapper(*arguments[1:3])
        if as_function:
            self.called.add(called)
        return Opaque(called or "call", arguments if isinstance(arguments, tuple) else ())

    def _tensor(self, storage: Any, offset: Any, shape: Any, stride: Any = None, *rest: Any) -> Any:
        if not isinstance(storage, _Storage) or not isinstance(offset, int) or not isinstance(shape, tuple):
            return Opaque("tensor")
        if any(type(size) is not int or size < 0 for size in shape):
            return Opaque("tensor")
        # `_rebuild_tensor_v3` keeps an untyped storage and names the dtype behind the hooks.
        kind = rest[2].name.rpartition(".")[2] if len(rest) > 2 and isinstance(rest[2], Opaque) else storage.kind
        dtype, width = DTYPES.get(kind, (kind, 0))
        info = TensorInfo(dtype, shape)
        if (self.placed is not None and info.count > self.placed) or not width or not _dense(shape, stride):
            return info
        start = self.start_of(storage.key)
        if not start:
            return info
        begin = start + offset * width
        return TensorInfo(dtype, shape, begin, begin + info.count * width, self.file, _axes(shape, stride))


def _wrapper(dtype: Any, shape: Any) -> Any:
    """A tensor of a class of its own, such as torchao's quantized moments: as what it stands for, with no bytes of its own."""
    if not isinstance(dtype, Opaque) or not isinstance(shape, tuple) or any(type(size) is not int for size in shape):
        return Opaque("tensor")
    return TensorInfo(DTYPES.get(dtype.name.rpartition(".")[2], (dtype.name, 0))[0], shape)


def _axes(shape: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    """The order of a dense tensor's axes in memory, slowest first; empty where it is their own."""
    order = tuple(sorted(range(len(shape)), key=lambda axis: (shape[axis] != 1, stride[axis]), reverse=True))
    real = [axis for axis in order if shape[axis] != 1]
    return order if real != sorted(real) else ()


def _dense(shape: tuple[int, ...], stride: Any) -> bool:
    """Whether the elements fill their range without gap or overlap, in whatever order, so that it holds just them."""
    if not isinstance(stride, tuple) or len(stride) != len(shape) or any(type(step) is not int for step in stride):
        return False
    expected = 1
    for step, size in sorted((step, size) for step, size in zip(stride, shape, strict=True) if size != 1):
        if step != expected:
            return False
        expected *= size
    return True


class Opaque:
    """Something the pickle would build that is no tensor: what it would call with which arguments, and its fields."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: object, arguments: tuple[Any, ...] = ()) -> None:
        self.name = str(name)
        self.arguments = arguments
        self.state: Mapping[Any, Any] = {}


@dataclass(frozen=True, slots=True)
class _Storage:
    """torch's persistent id of a storage: ("storage", type, key, device, number of elements)."""

    kind: str
    key: str

    @classmethod
    def from_id(cls, value: Any) -> _Storage | Opaque:
        if isinstance(value, tuple) and len(value) >= 3 and value[0] == "storage" and isinstance(value[1], Opaque):
            return cls(value[1].name.rpartition(".")[2], str(value[2]))
        return Opaque("persistent")
