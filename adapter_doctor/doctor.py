"""The stages of an examination, in order: resolve, gather, load, judge, diagnose. Read this file first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapter_doctor import reference as references
from adapter_doctor.comparison import compare
from adapter_doctor.diagnosis import diagnose
from adapter_doctor.engine import judge
from adapter_doctor.errors import DoctorError
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterFolder,
    AdapterTensors,
    BaseCheckpoint,
    BaseConfig,
    BaseCopies,
    BaseFolder,
    BaseModules,
    Comparison,
    Environment,
    Facts,
    Fit,
    LoadOutcome,
    Missing,
    RunOutcome,
    TensorValues,
    WeightsFiles,
)
from adapter_doctor.formats.adapter_keys import PREFIX
from adapter_doctor.gather.adapter import gather_adapter
from adapter_doctor.gather.base import gather_base
from adapter_doctor.gather.environment import gather_environment
from adapter_doctor.gather.load import load_request, modules_from, read_answer
from adapter_doctor.gather.modules import modules_from_checkpoint
from adapter_doctor.loading.process import DEFAULT_TIME_LIMIT, ChildDied, LoadingChild
from adapter_doctor.placement import foretell
from adapter_doctor.report import AdapterError, Report
from adapter_doctor.rules import Rule, all_rules
from adapter_doctor.sources import Source
from adapter_doctor.sources.disk import DiskSource

if TYPE_CHECKING:
    import peft
    import torch

Load = Literal["skeleton", "full", "no"]
LOADS: tuple[Load, ...] = ("skeleton", "full", "no")


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
    child: LoadingChild | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Examine whether ``adapter`` works on ``base``.

    ``base`` is a folder, a reference, a model in memory (which is left as it is), or None for the base that the
    adapter's config names. ``load`` says how far to go: ``skeleton`` loads the adapter onto the base without the base's
    weights, ``full`` with them, ``no`` judges from files alone. ``run`` adds a forward pass with the adapter on and off
    and needs ``full``. ``select`` and ``ignore`` take codes or beginnings of codes. ``values=False`` leaves the values
    of the tensors unread. ``time_limit`` is in seconds, for the load. ``python`` is the interpreter of another
    environment to load in. ``child`` is a loading process to use for many checks, ``progress`` is told what goes on.

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
    facts = _gather_values(adapter_source, facts) if values else facts.lacking(_waived("--no-values"), TensorValues)
    if _in_memory(base):
        facts = _load_in_memory(base, adapter_source, facts, load)
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
        facts = _load(base_source, adapter_source, facts, load, run, options, time_limit, python, child, progress)
    facts = _fill_in(facts, adapter_source, load, run)
    return _report(judge(rules, facts), facts, base_reference)


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


def _waived(option: str) -> Missing:
    return Missing(f"at your request ({option})", waived=True)


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


def _load(
    base: Source | None, adapter: Source, facts: Facts, load: Load, run: bool, options: Mapping[str, Any],
    time_limit: float, python: str | None, child: LoadingChild | None, progress: Callable[[str], None] | None,
) -> Facts:  # fmt: skip
    """The load in a child process, where it was asked for and is possible."""
    if load == "no":
        return facts.lacking(_waived("--load no"), LoadOutcome)
    config, tensors, base_config = facts.get(AdapterConfig), facts.get(AdapterTensors), facts.get(BaseConfig)
    for fact in (config, tensors, base_config):
        if isinstance(fact, Missing):
            return facts.lacking(Missing(f"nothing could be loaded: {fact.why}"), BaseModules, Fit, LoadOutcome)
    assert isinstance(config, AdapterConfig)
    assert isinstance(tensors, AdapterTensors)
    assert isinstance(base_config, BaseConfig)
    assert base is not None
    environment = facts.get(Environment)
    absent = [
        name for name in ("torch", "transformers", "peft")
        if isinstance(environment, Environment) and environment.version(name) is None
    ]  # fmt: skip
    if absent and python is None:
        why = f"{' and '.join(absent)} not installed: pip install 'adapter-doctor[load]', or judge with --load no"
        return facts.lacking(Missing(why), BaseModules, Fit, LoadOutcome)
    request = load_request(str(base.path("")), str(adapter.path("")), config, tensors, extent=load, run=run, **options)
    try:
        if child is not None:
            answer = child.ask(request, time_limit)
        else:
            with LoadingChild(python, progress) as own:
                answer = own.ask(request, time_limit)
    except ChildDied as death:
        facts = facts.adding(LoadOutcome("full" if load == "full" else "skeleton", died=str(death)))
        return facts.lacking(Missing(str(death)), BaseModules, Fit)
    return read_answer(facts, answer, load)


def _load_in_memory(model: Any, adapter: Source, facts: Facts, load: Load) -> Facts:
    """The load on a copy of the model's structure, in this process: what the model holds is not touched."""
    from adapter_doctor.loading import child

    if hasattr(model, "peft_config"):
        raise DoctorError(
            "the model in memory already carries an adapter, and a second one on top would be doubly wrapped",
            "pass the base model: `model.unload()`, or load it anew",
        )
    raw = model.config.to_dict() if hasattr(model, "config") and hasattr(model.config, "to_dict") else {}
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    facts = facts.adding(BaseFolder(name or type(model).__name__, True), BaseConfig(raw))
    facts = facts.lacking(Missing("the base is a model in memory, not files", waived=True), BaseCheckpoint)
    config, tensors = facts.get(AdapterConfig), facts.get(AdapterTensors)
    if isinstance(config, Missing) or isinstance(tensors, Missing):
        return facts.lacking(Missing("nothing could be loaded"), BaseModules, Fit, LoadOutcome)
    if load == "no":
        facts = facts.adding(modules_from(child.module_tree(model), "memory"))
        return facts.lacking(_waived("load='no'"), LoadOutcome)
    request = load_request("", str(adapter.path("")), config, tensors, BaseConfig(raw))
    return read_answer(facts, child.answer(request, model), "skeleton", "memory")


def _fill_in(facts: Facts, adapter: Source, load: Load, run: bool) -> Facts:
    """Facts that follow from others: the modules by the checkpoint, the fit by forecast, copies of base weights."""
    config, tensors, base_config = facts.get(AdapterConfig), facts.get(AdapterTensors), facts.get(BaseConfig)
    checkpoint, modules = facts.get(BaseCheckpoint), facts.get(BaseModules)
    if isinstance(config, AdapterConfig) and isinstance(base_config, BaseConfig):
        if isinstance(modules, Missing) and isinstance(checkpoint, BaseCheckpoint):
            derived = modules_from_checkpoint(base_config, checkpoint, config.task_type)
            if isinstance(derived, BaseModules):
                modules = derived
                facts = facts.adding(modules)
            elif load == "no":
                facts = facts.lacking(derived, BaseModules)
        elif isinstance(modules, Missing) and isinstance(checkpoint, Missing):
            facts = facts.lacking(
                Missing(f"{checkpoint.why}, and without a load the config alone does not give the module names"),
                BaseModules,
            )
        if isinstance(facts.get(Fit), Missing) and isinstance(modules, BaseModules) and load == "no":
            if isinstance(tensors, AdapterTensors):
                foretold = foretell(config, tensors, modules, base_config.model_type)
                facts = facts.lacking(foretold, Fit) if isinstance(foretold, Missing) else facts.adding(foretold)
    for why, kinds in ((config, (AdapterConfig,)), (tensors, (AdapterTensors,)), (base_config, (BaseConfig,))):
        if isinstance(why, Missing):
            facts = facts.lacking(why, BaseModules, Fit, *kinds)
    not_run = Missing("the forward pass was not reached") if run else _waived("no --run")
    facts = _compare_copies(facts, adapter).lacking(not_run, RunOutcome)
    modules, fit = facts.get(BaseModules), facts.get(Fit)
    facts = facts.lacking(modules if isinstance(modules, Missing) else Missing("the fit is not known"), Fit)
    if (
        isinstance(fit, Fit) and isinstance(modules, BaseModules) and isinstance(config, AdapterConfig)
        and isinstance(tensors, AdapterTensors) and isinstance(base_config, BaseConfig)
    ):  # fmt: skip
        return facts.adding(compare(config, tensors, modules, fit, base_config))
    why = facts.get(Fit)
    return facts.lacking(why if isinstance(why, Missing) else Missing("the fit is not known"), Comparison)


def _compare_copies(facts: Facts, adapter: Source) -> Facts:
    """Tensors of the adapter that would land on base weights, compared with the base's own bytes where both are here."""
    fit, tensors = facts.get(Fit), facts.get(AdapterTensors)
    if isinstance(fit, Missing) or isinstance(tensors, Missing):
        return facts.lacking(Missing("where the tensors go is not known"), BaseCopies)
    if not fit.overwriting:
        return facts.adding(BaseCopies())
    copies = {key: tensors.tensors[key] for key in fit.overwriting if key in tensors.tensors}
    checkpoint, base = facts.get(BaseCheckpoint), facts.get(BaseFolder)
    weights = adapter.path(tensors.file)
    if isinstance(checkpoint, Missing) or isinstance(base, Missing) or weights is None:
        return facts.adding(BaseCopies(unread=frozenset(copies)))
    from adapter_doctor.gather.values import compare_with_base

    names = {key: _checkpoint_name(key, checkpoint) for key in copies}
    folder = references.parse(base.reference).path or Path(base.reference)
    return facts.adding(compare_with_base(weights, copies, folder, checkpoint, names))


def _checkpoint_name(key: str, checkpoint: BaseCheckpoint) -> str:
    """The name in the base's checkpoint of the weight that a key in the adapter would overwrite."""
    name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
    if name in checkpoint.tensors:
        return name
    ends = [one for one in checkpoint.tensors if one.endswith("." + name) or name.endswith("." + one)]
    return ends[0] if len(ends) == 1 else ""


def _report(outcomes: Any, facts: Facts, base_reference: str) -> Report:
    folder, config, tensors = facts.get(AdapterFolder), facts.get(AdapterConfig), facts.get(AdapterTensors)
    base_folder, base_config, outcome = facts.get(BaseFolder), facts.get(BaseConfig), facts.get(LoadOutcome)
    environment, weights, modules = facts.get(Environment), facts.get(WeightsFiles), facts.get(BaseModules)
    loaded = isinstance(outcome, LoadOutcome) and not outcome.died
    adapter: dict[str, Any] = {
        "reference": folder.reference if isinstance(folder, AdapterFolder) else None,
        "revision": folder.revision if isinstance(folder, AdapterFolder) else None,
        "peft_type": config.peft_type or None if isinstance(config, AdapterConfig) else None,
        "task_type": config.task_type or None if isinstance(config, AdapterConfig) else None,
        "rank": _rank(config),
        "tensors": len(tensors) if isinstance(tensors, AdapterTensors) else None,
        "parameters": sum(one.count for one in tensors.tensors.values()) if isinstance(tensors, AdapterTensors) else None,
        "weights_file": weights.chosen.name if isinstance(weights, WeightsFiles) and weights.chosen else None,
    }  # fmt: skip
    base = {
        "reference": base_reference or None,
        "revision": base_folder.revision if isinstance(base_folder, BaseFolder) else None,
        "model_type": base_config.model_type or None if isinstance(base_config, BaseConfig) else None,
        "quantization": base_config.quantization_method if isinstance(base_config, BaseConfig) else None,
        "class": modules.class_name or None if isinstance(modules, BaseModules) else None,
        "names_from": modules.origin if isinstance(modules, BaseModules) else None,
    }
    landed = None
    if isinstance(outcome, LoadOutcome) and loaded and outcome.in_file:
        landed = {
            "in_file": outcome.in_file, "landed": outcome.landed, "ignored": len(outcome.ignored),
            "left_at_init": len(outcome.left_at_init), "overwritten_base": len(outcome.overwritten),
        }  # fmt: skip
    versions: dict[str, str | None] = {}
    if isinstance(environment, Environment):
        versions = {"python": environment.python}
        versions |= {name: environment.version(name) for name in ("torch", "transformers", "peft")}
    examined: Literal["static", "loaded", "run"] = "static"
    if isinstance(outcome, LoadOutcome) and loaded:
        ran = facts.get(RunOutcome)
        examined = "run" if isinstance(ran, RunOutcome) and ran.refusal is None else "loaded"
    return Report(diagnose(outcomes), examined, base, adapter, versions, landed)


def _rank(config: AdapterConfig | Missing) -> int | None:
    if isinstance(config, Missing):
        return None
    value = config.get("r", config.get("init_r"))
    return value if isinstance(value, int) and not isinstance(value, bool) else None
