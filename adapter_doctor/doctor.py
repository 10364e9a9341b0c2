"""The stages of an examination, in order: resolve, gather, load, judge, diagnose. Read this file first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_doctor import reference as references
from adapter_doctor.derive import derive
from adapter_doctor.engine import judge
from adapter_doctor.errors import DoctorError
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterTensors,
    BaseConfig,
    BaseFolder,
    Facts,
    Missing,
    RunOutcome,
    TensorValues,
)
from adapter_doctor.gather.adapter import gather_adapter
from adapter_doctor.gather.base import gather_base
from adapter_doctor.gather.environment import gather_environment
from adapter_doctor.gather.load import load_request
from adapter_doctor.loading.process import DEFAULT_TIME_LIMIT, LoadingChild
from adapter_doctor.loading.stage import LOADS, Load, load_in_child, load_in_memory, waived
from adapter_doctor.report import AdapterError, Report, build
from adapter_doctor.rules import Rule, all_rules
from adapter_doctor.sources import Source
from adapter_doctor.sources.disk import DiskSource

if TYPE_CHECKING:
    import peft
    import torch


def check(
    base: str | Path | torch.nn.Module | None,
    adapter: str | Path,
    *,
    load: Load = "skeleton",
    run: bool = False,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    model_class: str | None = None,
    trust_remote_code: bool = False,
    values: bool = True,
    time_limit: float = DEFAULT_TIME_LIMIT,
    python: str | None = None,
    cache: bool = True,
    child: LoadingChild | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Examine whether ``adapter`` works on ``base``.

    ``base`` is a folder, a reference, a model in memory (which is left as it is), or None for the base that the
    adapter's config names. ``load`` says how far to go: ``skeleton`` loads the adapter onto the base without the base's
    weights, ``full`` with them, ``no`` judges from files alone. ``run`` adds a forward pass with the adapter on and off
    and needs ``full``. ``select`` and ``ignore`` take codes or beginnings of codes. ``values=False`` leaves the values
    of the tensors unread. ``time_limit`` is in seconds, for the load. ``python`` is the interpreter of another
    environment to load in. ``cache=False`` neither reads nor writes the module trees kept on disk. ``child`` is a loading process to use for many checks, ``progress`` is told what goes on.

    Raises:
        DoctorError: the arguments contradict each other. What is wrong with an adapter never raises.
    """
    if load not in LOADS:
        raise DoctorError(f"load is {load!r}, expected one of {', '.join(LOADS)}")
    if run and load != "full":
        raise DoctorError("a forward pass needs the base's weights", "add --load full")
    if time_limit <= 0:
        raise DoctorError(f"the time limit is {time_limit:g} seconds, expected more than 0")
    rules = chosen_rules(select, ignore)
    adapter_source = _source(adapter)
    facts = gather_adapter(adapter_source, Facts()).adding(gather_environment())
    facts = _gather_values(adapter_source, facts) if values else facts.lacking(waived("--no-values"), TensorValues)
    if _in_memory(base):
        facts = load_in_memory(base, adapter_source, facts, load)
        base_reference = type(base).__name__
    else:
        assert base is None or isinstance(base, (str, Path))
        named = _named_base(facts) if base is None else base
        base_source = _source(named) if named else None
        base_reference = str(named or "")
        if base_source is None:
            facts = facts.adding(BaseFolder("", False, "the adapter's config names no base", "unnamed", given=False))
            facts = facts.lacking(Missing("no base was given, and the adapter's config names none"), BaseConfig)
        else:
            facts = gather_base(base_source, facts, given=base is not None)
        options = {"model_class": model_class, "trust_remote_code": trust_remote_code}
        facts = load_in_child(
            base_source, adapter_source, facts, load, run, options, time_limit, python, child, progress, cache
        )
    facts = facts.lacking(Missing("the forward pass was not reached") if run else waived("no --run"), RunOutcome)
    facts = derive(facts, adapter_source, static=load == "no", cache=cache, model_class=model_class)
    return build(judge(rules, facts), facts, base_reference)


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

    if not _in_memory(base):
        from adapter_doctor.loading import child

        source = _source(adapter)
        facts = gather_adapter(source, Facts())
        config, tensors = facts.get(AdapterConfig), facts.get(AdapterTensors)
        if isinstance(config, Missing) or isinstance(tensors, Missing):
            raise AdapterError(report)
        base_config = gather_base(_source(base), facts).get(BaseConfig)
        assert isinstance(base_config, BaseConfig)
        request = load_request(str(_source(base).path("")), None, config, tensors, base_config)
        base = child.full_base(request, child.base_config(request))
    return peft.PeftModel.from_pretrained(base, str(_source(adapter).path("")))


def chosen_rules(select: Iterable[str], ignore: Iterable[str]) -> tuple[Rule[...], ...]:
    """Rules whose code begins with one of ``select`` (all where it is empty) and with none of ``ignore``.

    Raises:
        DoctorError: an entry fits no rule.
    """
    select, ignore = tuple(select), tuple(ignore)
    for entry in (*select, *ignore):
        if not any(rule.code.startswith(entry) or rule.name == entry for rule in all_rules()):
            raise DoctorError(f"no rule has a code that begins with {entry!r}", "see `adapter-doctor rules`")

    def named(rule: Rule[...], entries: tuple[str, ...]) -> bool:
        return any(rule.code.startswith(entry) or rule.name == entry for entry in entries)

    return tuple(rule for rule in all_rules() if (not select or named(rule, select)) and not named(rule, ignore))


# ---------------------------------------------------------------------------------------------------- the stages


def _source(given: str | Path | Any) -> Source:
    parsed = references.parse(str(given))
    path = parsed.path if parsed.path is not None else Path(parsed.repo or parsed.text)
    return DiskSource(path, str(given))


def _in_memory(base: object) -> bool:
    return hasattr(base, "named_modules") and hasattr(base, "state_dict")


def _named_base(facts: Facts) -> str | None:
    config = facts.get(AdapterConfig)
    return config.base_name or None if isinstance(config, AdapterConfig) else None


def _gather_values(source: Source, facts: Facts) -> Facts:
    tensors = facts.get(AdapterTensors)
    if isinstance(tensors, Missing):
        return facts.lacking(tensors, TensorValues)
    from adapter_doctor.gather.values import gather_values

    path = source.path(tensors.file)
    if path is None:
        return facts.lacking(Missing("the weights are not on this disk, so their values were not read"), TensorValues)
    try:
        return facts.adding(gather_values(path, tensors))
    except (OSError, ValueError) as error:
        return facts.lacking(Missing(f"the values of {tensors.file} cannot be read: {error}"), TensorValues)
