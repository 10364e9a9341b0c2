"""The stages of an examination, in order: resolve, gather, load, judge, diagnose. Read this file first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from adapter_doctor.derive import derive
from adapter_doctor.engine import judge
from adapter_doctor.errors import DoctorError
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterTensors,
    BaseCheckpoint,
    BaseConfig,
    Facts,
    Missing,
    RunOutcome,
    Serving,
    TensorValues,
)
from adapter_doctor.gather.adapter import gather_adapter
from adapter_doctor.gather.base import gather_base, gather_checkpoint
from adapter_doctor.gather.environment import gather_environment
from adapter_doctor.gather.load import load_request
from adapter_doctor.gather.norms import with_norms
from adapter_doctor.loading.process import DEFAULT_TIME_LIMIT, LoadingChild
from adapter_doctor.loading.stage import LOADS, Load, load_in_child, load_in_memory, tree_kept, waived, weight_files
from adapter_doctor.notebook import told_in_cell
from adapter_doctor.opening import named_base, open_source, opened, prepare
from adapter_doctor.report import AdapterError, Report, build
from adapter_doctor.rules import Rule, rules_of
from adapter_doctor.selection import chosen_rules, passed_over
from adapter_doctor.sources import Source, Unreachable
from adapter_doctor.sources.disk import DiskSource
from adapter_doctor.suppression import Known, suppress

if TYPE_CHECKING:
    import peft
    import torch

    from adapter_doctor.inspection import Inspection
    from adapter_doctor.merged.verification import Verification


@told_in_cell
def check(
    base: str | Path | torch.nn.Module | None,
    adapter: str | Path,
    *,
    load: Load = "skeleton",
    run: bool = False,
    select: Iterable[str] = (),
    ignore: Iterable[str] | Mapping[str, str] = (),
    baseline: Known = frozenset(),
    model_class: str | None = None,
    trust_remote_code: bool = False,
    values: bool = True,
    time_limit: float = DEFAULT_TIME_LIMIT,
    python: str | None = None,
    cache: bool = True,
    base_revision: str | None = None,
    adapter_revision: str | None = None,
    subfolder: str | None = None,
    token: str | None = None,
    offline: bool = False,
    engines: Iterable[str] = (),
    beside: Iterable[str | Path] = (),
    norms: bool | None = None,
    child: LoadingChild | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Examine whether ``adapter`` works on ``base``.

    ``base`` is a folder, a repository on the Hub, a model in memory (which is left as it is), or None for the base that
    the adapter's config names. ``load`` says how far to go: ``skeleton`` loads the adapter onto the base without the
    base's weights, ``full`` with them, ``no`` judges from files alone. ``run`` adds a forward pass with the adapter on
    and off and needs ``full``. ``select`` and ``ignore`` take codes or beginnings of codes, ``ignore`` also a mapping
    from these to reasons; what is ignored, or was a hit in the report that ``baseline`` comes from (see
    :func:`adapter_doctor.settings.read_baseline`), is told in ``report.suppressed``. ``values=False`` leaves the
    values of the tensors unread; an adapter on the Hub is then not downloaded. ``time_limit`` is in seconds, for the
    load and for the network each. ``python`` is the interpreter of another environment to load in. ``cache=False``
    neither reads nor writes the module trees kept on disk. The revisions, ``subfolder`` (of the adapter), ``token`` and
    ``offline`` are for the Hub. ``engines`` (``vllm``, ``sglang@0.5.23``, ``all`` …) are asked what they will do with the
    adapter, and with those in ``beside`` that are to be served with it. ``norms`` says whether the report's picture tells
    the norms of the updates: None for small files only, as they cost a read of all weights. ``child`` is a
    loading process to use for many checks; ``progress`` is told what goes on.

    Raises:
        DoctorError: the arguments contradict each other. What is wrong with an adapter never raises.
    """
    if load not in LOADS:
        raise DoctorError(f"load is {load!r}, expected one of {', '.join(LOADS)}")
    if run and _in_memory(base):
        raise DoctorError(
            "a model in memory is left as it is, so no forward pass is made", "load it, and run it yourself"
        )
    if run and load != "full":
        raise DoctorError("a forward pass needs the base's weights", "add --load full")
    if not time_limit > 0:
        raise DoctorError(f"the time limit is {time_limit:g} seconds, expected more than 0")
    reasons = ignore if isinstance(ignore, Mapping) else dict.fromkeys(ignore, "at your request")
    beside = tuple(beside)
    engines, select = tuple(engines), tuple(select)
    # All of them are imported later, while the Hub is waited for.
    rules = chosen_rules(select, reasons) if select or reasons else None
    if beside and not engines:
        raise DoctorError("adapters are served together by an engine, and none is named", "add --for ENGINE")
    serve = _serving(engines)
    found = examine(
        base, adapter, load=load, run=run, model_class=model_class, trust_remote_code=trust_remote_code, values=values,
        time_limit=time_limit, python=python, cache=cache, base_revision=base_revision,
        adapter_revision=adapter_revision, subfolder=subfolder, token=token, offline=offline, child=child,
        progress=progress,
    )  # fmt: skip
    opening = {"token": token, "offline": offline, "deadline": time.monotonic() + time_limit, "progress": progress}
    others = [gather_adapter(open_source(str(one), None, None, **opening)[0], Facts()) for one in beside]
    facts = with_norms(found.adapter, found.facts, norms)
    return judged(replace(found, facts=serve(facts, found.reference or "BASE", others)), rules, reasons, baseline)


def _serving(engines: Iterable[str]) -> Callable[[Facts, str, Sequence[Facts]], Facts]:
    """How facts get to know what the engines will do; it costs an import only where some are named.

    Raises:
        DoctorError: no engine has this name.
    """
    if not engines:
        return lambda facts, _base, _beside: facts.lacking(Missing("no --for", waived=True), Serving)
    from adapter_doctor.serving.stage import asked, with_serving

    profiles = asked(engines)
    return lambda facts, base, beside: with_serving(facts, profiles, base, beside)


@dataclass(frozen=True)
class Examination:
    """What one examination gathered, before it is judged; ``base`` is None for a model in memory and where none is named."""

    facts: Facts
    adapter: Source
    base: Source | None
    reference: str
    notes: tuple[str, ...]


def examine(
    base: str | Path | torch.nn.Module | Source | None,
    adapter: str | Path | Source,
    *,
    load: Load = "skeleton",
    run: bool = False,
    model_class: str | None = None,
    trust_remote_code: bool = False,
    values: bool = True,
    time_limit: float = DEFAULT_TIME_LIMIT,
    python: str | None = None,
    cache: bool = True,
    base_revision: str | None = None,
    adapter_revision: str | None = None,
    subfolder: str | None = None,
    token: str | None = None,
    offline: bool = False,
    child: LoadingChild | None = None,
    progress: Callable[[str], None] | None = None,
    header_above: int | None = None,
    training: Mapping[str, Any] = MappingProxyType({}),
) -> Examination:
    """Gather every fact about ``adapter`` and ``base``; the options are those of :func:`check`.

    Both may be sources that are open already. Weights of more than ``header_above`` bytes are loaded by their header
    alone, without their values: where they land is the same, and it takes no memory. ``training`` asks the load what
    a resume needs to know (``training`` in loading/child.py).

    Raises:
        DoctorError: a reference means nothing.
    """
    opening = {"token": token, "offline": offline, "deadline": time.monotonic() + time_limit, "progress": progress}
    adapter_source, notes = opened(adapter, adapter_revision, subfolder, opening)
    base_source: Source | None = None
    if base is not None and not _in_memory(base):
        base_source, more = opened(base, base_revision, None, opening)
        notes += more
    static = load == "no"
    prepare(adapter_source, base_source, static, rules_of)  # whose import takes as long as an answer of the Hub
    facts = gather_adapter(adapter_source, Facts()).adding(gather_environment())
    if base is None:
        base_source, more, facts = named_base(facts, base_revision, opening)
        notes += more
        prepare(None, base_source, static)
    facts = _gather_values(adapter_source, facts, values, load)
    if _in_memory(base):
        facts = load_in_memory(base, adapter_source, facts, load, training)
    else:
        if base_source is not None:
            local = isinstance(base_source, DiskSource)
            facts = gather_base(base_source, facts, given=base is not None, weights=local)
            if static and not local and not (cache and tree_kept(facts, model_class)):
                facts = gather_checkpoint(base_source, facts)
            facts = facts.lacking(
                Missing("the headers of the base's weights were not asked for", waived=True), BaseCheckpoint
            )
        options = {
            "model_class": model_class, "trust_remote_code": trust_remote_code, "values": values,
            "header_above": header_above, "training": training,
        }  # fmt: skip
        facts = load_in_child(
            base_source, adapter_source, facts, load, run, options, time_limit, python, child, progress, cache
        )
    facts = facts.lacking(Missing("the forward pass was not reached") if run else waived("no --run"), RunOutcome)
    facts = derive(facts, adapter_source, base_source, static=static, cache=cache, model_class=model_class)
    notes += [
        f"{source.reference} has moved to {source.renamed_to}: name it so"
        for source in (base_source, adapter_source)
        if source is not None and source.renamed_to
    ]
    reference = type(base).__name__ if _in_memory(base) else base_source.reference if base_source else ""
    return Examination(facts, adapter_source, base_source, reference, tuple(notes))


def judged(
    found: Examination,
    rules: tuple[Rule[...], ...] | None = None,
    reasons: Mapping[str, str] = MappingProxyType({}),
    baseline: Known = frozenset(),
) -> Report:
    """The report of an examination by ``rules``, or by all there are; ``reasons`` and ``baseline`` are of :func:`check`."""
    rules = rules_of() if rules is None else rules
    facts = _serving(())(found.facts, "", ())  # no engine, where none was asked before
    outcomes, suppressed = suppress(judge(rules, facts), reasons, baseline)
    return build((*outcomes, *passed_over(rules_of(), rules)), facts, found.reference, found.notes, suppressed)


def load(base: str | Path | torch.nn.Module, adapter: str | Path, **options: Any) -> peft.PeftModel:
    """`PeftModel.from_pretrained` that does not lie: the model if everything landed, else the diagnosis as an error.

    ``base`` may be a model already in memory, which is then adapted in place as PEFT does; otherwise it is loaded with
    transformers. ``options`` are those of :func:`check`.

    Raises:
        AdapterError: the adapter does not work on this base, or it cannot be told; ``.report`` says why.
    """
    report = check(base, adapter, **options)
    report.raise_for_errors()
    import peft

    opening = {name: options.get(name) for name in ("token", "offline") if options.get(name)}
    source, _ = open_source(str(adapter), options.get("adapter_revision"), options.get("subfolder"), **opening)
    facts = gather_adapter(source, Facts())
    config, tensors = facts.get(AdapterConfig), facts.get(AdapterTensors)
    if isinstance(config, Missing) or isinstance(tensors, Missing):
        raise AdapterError(report)
    source.fetch_all(["adapter_config.json", tensors.file])
    if not _in_memory(base):
        from adapter_doctor.loading import child

        base_source, _ = open_source(str(base), options.get("base_revision"), None, **opening)
        base_config = gather_base(base_source, facts, weights=False).get(BaseConfig)
        assert isinstance(base_config, BaseConfig)
        base_source.fetch_all(weight_files(base_source))
        chosen = {name: options.get(name) for name in ("model_class", "trust_remote_code")}
        request = load_request(str(base_source.path("")), None, config, tensors, base_config, **chosen)
        base = child.full_base(request, child.base_config(request))
    return peft.PeftModel.from_pretrained(base, str(source.path("")))


def inspect(
    adapter: str | Path,
    base: str | Path | None = None,
    *,
    time_limit: float = DEFAULT_TIME_LIMIT,
    base_revision: str | None = None,
    adapter_revision: str | None = None,
    subfolder: str | None = None,
    token: str | None = None,
    offline: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Inspection:
    """What ``adapter`` is, by its config and the header of its weights; with ``base`` also whether merging is right.

    Nothing is loaded and torch is not imported. The options are those of :func:`check`.

    Raises:
        DoctorError: the arguments mean nothing. What is wrong with an adapter never raises.
    """
    if not time_limit > 0:
        raise DoctorError(f"the time limit is {time_limit:g} seconds, expected more than 0")
    opening = {"token": token, "offline": offline, "deadline": time.monotonic() + time_limit, "progress": progress}
    source, _ = open_source(str(adapter), adapter_revision, subfolder, **opening)
    base_source = open_source(str(base), base_revision, None, **opening)[0] if base is not None else None
    prepare(source, base_source, static=False)
    facts = gather_adapter(source, Facts())
    if base_source is not None:
        facts = gather_base(base_source, facts, weights=False)
    from adapter_doctor.inspection import build as inspection_of

    return inspection_of(facts, source.reference, base_source.reference if base_source is not None else None)


def verify_merge(
    base: str | Path,
    adapter: str | Path,
    merged: str | Path,
    *,
    token: str | None = None,
    offline: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Verification:
    """Whether ``merged`` is ``base`` with ``adapter`` in it, told from the values of all three, without torch.

    Raises:
        DoctorError: a reference means nothing.
    """
    from adapter_doctor.merged.verification import verify

    opening = {"token": token, "offline": offline}
    first, second, third = (open_source(str(one), None, None, **opening)[0] for one in (base, adapter, merged))
    return verify(first, second, third, progress)


# ---------------------------------------------------------------------------------------------------- the stages


def _in_memory(base: object) -> bool:
    return hasattr(base, "named_modules") and hasattr(base, "state_dict")


def _gather_values(source: Source, facts: Facts, values: bool, load: Load) -> Facts:
    """The values of the tensors, where they are wanted and on this disk; a load brings them here anyway."""
    if not values:
        return facts.lacking(waived("--no-values"), TensorValues)
    tensors = facts.get(AdapterTensors)
    if isinstance(tensors, Missing):
        return facts.lacking(tensors, TensorValues)
    path = source.path(tensors.file)
    if path is None and load == "no":
        return facts.lacking(waived("--load no leaves weights on the Hub, so their values were not read"), TensorValues)
    from adapter_doctor.gather.values import gather_values

    try:
        return facts.adding(gather_values(path or source.fetch_all([tensors.file])[tensors.file], tensors))
    except Unreachable as trouble:
        return facts.lacking(Missing(f"{tensors.file} could not be downloaded: {trouble.why}"), TensorValues)
    except (OSError, ValueError) as error:
        return facts.lacking(Missing(f"the values of {tensors.file} cannot be read: {error}"), TensorValues)
