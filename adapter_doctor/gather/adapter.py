"""Gather the facts of an adapter: its folder, config, weight files and tensors."""

from __future__ import annotations

from adapter_doctor.facts import (
    AdapterConfig,
    AdapterFolder,
    AdapterTensors,
    ConfigFile,
    Facts,
    FileState,
    Missing,
    PickleScan,
    WeightsFiles,
)
from adapter_doctor.formats import bounded_json, safetensors_header, torch_pickle
from adapter_doctor.gather.values import same_bytes
from adapter_doctor.sources import Source, Unreachable

CONFIG = "adapter_config.json"
SAFETENSORS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
_WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".npz")
_NO_WEIGHTS = ("optimizer", "scheduler", "rng_state", "training_args", "scaler", "trainer_state")


def gather_adapter(source: Source, facts: Facts) -> Facts:
    """``facts`` with everything that the adapter's files tell without reading tensor values."""
    try:
        files = source.files()
    except Unreachable as trouble:
        if trouble.temporary:
            return facts.lacking(
                Missing(trouble.why), AdapterFolder, ConfigFile, AdapterConfig, WeightsFiles, AdapterTensors, PickleScan
            )
        facts = facts.adding(AdapterFolder(source.reference, False, trouble.why, trouble.reason))
        why = Missing(f"the adapter could not be read: {trouble.why}")
        return facts.lacking(why, ConfigFile, AdapterConfig, WeightsFiles, AdapterTensors, PickleScan)
    facts = facts.adding(AdapterFolder(source.reference, exists=True, revision=source.revision, files=files))
    try:
        facts = _gather_config(source, facts)
    except Unreachable as trouble:  # a gated repository can be listed and not read
        facts = facts.adding(AdapterFolder(source.reference, False, trouble.why, trouble.reason, source.revision))
        return facts.lacking(
            Missing(f"the adapter could not be read: {trouble.why}"),
            *(ConfigFile, AdapterConfig, WeightsFiles, AdapterTensors, PickleScan),
        )
    return _gather_weights(source, facts)


def _gather_config(source: Source, facts: Facts) -> Facts:
    size = source.files().get(CONFIG)
    if size is None and not source.complete:
        return facts.lacking(Missing(f"{CONFIG} is not in the cache"), ConfigFile, AdapterConfig)
    if size is None:
        facts = facts.adding(ConfigFile(FileState(CONFIG, "absent", f"there is no {CONFIG}")))
        return facts.lacking(Missing(f"there is no {CONFIG}"), AdapterConfig)
    try:
        if size > bounded_json.MAX_BYTES:
            raise bounded_json.BadJson(f"is {size:,} bytes, more than the {bounded_json.MAX_BYTES:,} that are read")
        raw = bounded_json.parse_object(source.read(CONFIG))
    except bounded_json.BadJson as trouble:
        state = FileState(CONFIG, "unreadable", str(trouble), size)
    except Unreachable as trouble:
        if trouble.temporary:
            return facts.lacking(Missing(f"{CONFIG}: {trouble.why}"), ConfigFile, AdapterConfig)
        if trouble.reason in ("gated", "denied"):
            raise
        state = FileState(CONFIG, "unreadable", f"cannot be read: {trouble.why}", size)
    else:
        return facts.adding(ConfigFile(FileState(CONFIG, "ok", size=size)), AdapterConfig(raw))
    return facts.adding(ConfigFile(state)).lacking(Missing(f"{CONFIG} {state.detail}"), AdapterConfig)


def _gather_weights(source: Source, facts: Facts) -> Facts:
    files = source.files()
    # PEFT takes the safetensors file where both exist (peft/utils/save_and_load.py, load_peft_weights).
    chosen = next((name for name in (SAFETENSORS, PICKLE) if name in files), None)
    others = tuple(
        _second_file(source, size) if chosen == SAFETENSORS and name == PICKLE else FileState(name, "ok", size=size)
        for name, size in sorted(files.items())
        if name != chosen and "/" not in name and name.endswith(_WEIGHT_ENDINGS) and not name.startswith(_NO_WEIGHTS)
    )
    if chosen is None and not source.complete:
        return facts.lacking(Missing("the weights are not in the cache"), WeightsFiles, AdapterTensors, PickleScan)
    if chosen is None:
        why = Missing("there are no adapter weights")
        return facts.adding(WeightsFiles(None, others)).lacking(why, AdapterTensors, PickleScan)
    try:
        if chosen == SAFETENSORS:
            facts = facts.adding(read_safetensors(source, files[chosen]), PickleScan(""))
        else:
            facts = facts.adding(*_read_pickle(source, files[chosen]))
    except (safetensors_header.BadHeader, torch_pickle.BadPickle) as trouble:
        state = FileState(chosen, trouble.state, str(trouble), files[chosen])
    except Unreachable as trouble:
        if trouble.temporary:
            return facts.lacking(Missing(f"{chosen}: {trouble.why}"), WeightsFiles, AdapterTensors, PickleScan)
        state = FileState(chosen, trouble.state, f"the file cannot be read: {trouble.why}", files[chosen])
    else:
        scan = facts.get(PickleScan)
        unsafe = isinstance(scan, PickleScan) and scan.unexpected
        state = FileState(chosen, "unsafe" if unsafe else "ok", size=files[chosen])
    return facts.adding(WeightsFiles(state, others)).lacking(
        Missing(f"{chosen} could not be read: {state.detail}"), AdapterTensors, PickleScan
    )


def _second_file(source: Source, size: int) -> FileState:
    """The state of an adapter_model.bin beside the safetensors file: `differs` where it holds other tensors."""
    path, first = source.path(PICKLE), source.path(SAFETENSORS)
    if path is None or first is None:
        return FileState(PICKLE, "ok", size=size)
    try:
        mine = read_safetensors(source, source.files()[SAFETENSORS]).tensors
        with path.open("rb") as file:
            theirs = torch_pickle.read_listing(file, size, PICKLE).tensors()
        if {name: one.shape for name, one in mine.items()} != {name: one.shape for name, one in theirs.items()}:
            return FileState(PICKLE, "differs", "holds tensors of other names or shapes", size)
        pairs = [(info, theirs[name]) for name, info in mine.items() if info.dtype == theirs[name].dtype]
        if not all(same_bytes(first, one, path, other) for one, other in pairs if other.start and not other.axes):
            return FileState(PICKLE, "differs", "holds other values", size)
    except (safetensors_header.BadHeader, torch_pickle.BadPickle, Unreachable, OSError):
        return FileState(PICKLE, "unreadable", "cannot be read", size)  # PEFT does not look at it either
    return FileState(PICKLE, "ok", size=size)


def read_safetensors(source: Source, size: int, name: str = SAFETENSORS) -> AdapterTensors:
    """The tensors of a safetensors file.

    Raises:
        Unreachable, BadHeader: it cannot be read.
    """
    length = safetensors_header.header_length(source.read(name, 0, 64), size)
    header = safetensors_header.parse_header(source.read(name, 8, length), size, name)
    return AdapterTensors(name, header.tensors, header.metadata)


def read_listing(source: Source, size: int, name: str = PICKLE) -> torch_pickle.Listing:
    """What a torch file holds, without unpickling it.

    Raises:
        Unreachable, BadPickle: it cannot be read.
    """
    path = source.fetch_all([name])[name]
    try:
        file = path.open("rb")
    except OSError as error:
        raise Unreachable(error.strerror or "it cannot be opened") from None
    with file:
        return torch_pickle.read_listing(file, size, name)


def _read_pickle(source: Source, size: int) -> tuple[object, ...]:
    listing = read_listing(source, size)
    scan = PickleScan(PICKLE, listing.unexpected, dangerous(listing) if listing.unexpected else ())
    if listing.unexpected:
        # The tensors of a file that runs code on loading are not worth a judgement: it must not be loaded at all.
        return (scan,)
    return scan, AdapterTensors(PICKLE, listing.tensors())


def dangerous(listing: torch_pickle.Listing) -> tuple[str, ...]:
    """Those globals that picklescan knows as able to run code."""
    import io

    from picklescan.scanner import SafetyLevel, scan_pickle_bytes

    result = scan_pickle_bytes(io.BytesIO(listing.pickle), PICKLE)
    return tuple(f"{one.module}.{one.name}" for one in result.globals if one.safety == SafetyLevel.Dangerous)
