"""The stage of the load: facts in, facts out, with the load in a child process or on a copy in this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from adapter_doctor.errors import DoctorError
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterTensors,
    BaseCheckpoint,
    BaseConfig,
    BaseFolder,
    BaseModules,
    Environment,
    Facts,
    Fit,
    LoadOutcome,
    Missing,
    TrainableParameters,
)
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.formats.config_patterns import pattern_trouble
from adapter_doctor.gather import tree_cache
from adapter_doctor.gather.load import labels_in, load_request, modules_from, read_answer
from adapter_doctor.gather.modules import modules_as_named
from adapter_doctor.loading.process import ChildDied, LoadingChild
from adapter_doctor.sources import Source, Unreachable

Load = Literal["skeleton", "full", "no"]
LOADS: tuple[Load, ...] = ("skeleton", "full", "no")


NEEDS_BASE_VALUES = ("ADAMSS", "FROD", "SHIRA")
"""Methods that compute parts of themselves from the base's weights when they are built, which a skeleton lacks."""
MAX_WEIGHTS = 8_000_000_000
"""Bytes of a base that is loaded with its weights without being asked to."""


def waived(option: str) -> Missing:
    """The reason of a fact that the user did not want looked at."""
    return Missing(f"at your request ({option})", waived=True)


def load_in_child(
    base: Source | None, adapter: Source, facts: Facts, load: Load, run: bool, options: Mapping[str, Any],
    time_limit: float, python: str | None, child: LoadingChild | None, progress: Callable[[str], None] | None, cache: bool,
) -> Facts:  # fmt: skip
    """The load in a child process, where it was asked for and is possible."""
    if load == "no":
        return facts.lacking(waived("--load no"), LoadOutcome)
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
    try:
        wanted = ["adapter_config.json", *([] if header_only(adapter, tensors, options) else [tensors.file])]
        adapter.fetch_all(wanted)
        base.fetch_all(weight_files(base) if load == "full" else small_files(base, options))
    except Unreachable as trouble:
        missing = Missing(f"what the load needs could not be downloaded: {trouble.why}")
        return facts.lacking(missing, BaseModules, Fit, LoadOutcome)
    endless = pattern_trouble(config, (one.module for one in map(parse, tensors) if one is not None))
    if any("does not finish" in trouble for _, _, trouble in endless):
        missing = Missing(f"nothing was loaded: a pattern in `{endless[0][0]}` would keep PEFT matching without end")
        return facts.lacking(missing, BaseModules, Fit, LoadOutcome)
    extent = "full" if load == "full" or _needs_weights(config, facts) else "skeleton"
    request = load_request(
        str(base.path("")), str(adapter.path("")), config, tensors, base_config, extent=extent, run=run,
        model_class=options.get("model_class"), trust_remote_code=options.get("trust_remote_code"),
        header=header_only(adapter, tensors, options), **options.get("training", {}),
    )  # fmt: skip
    try:
        if child is not None:
            answer = _ask(child, request, facts, time_limit)
        else:
            with LoadingChild(python, progress) as own:
                answer = _ask(own, request, facts, time_limit)
    except ChildDied as death:
        facts = facts.adding(LoadOutcome("full" if load == "full" else "skeleton", died=str(death)))
        return facts.lacking(Missing(str(death)), BaseModules, Fit)
    facts = _with_training(read_answer(facts, answer, extent), answer)
    if cache and "base" in answer and not answer.get("stand_in"):
        tree_cache.write(tree_name(facts, options.get("model_class")), answer["base"])
    return facts


def _with_training(facts: Facts, answer: Mapping[str, Any]) -> Facts:
    """What the child says about the training, where it was asked; a check does without the code for it."""
    if "trainable" not in answer:
        return facts
    from adapter_doctor.gather.checkpoint import read_training

    return read_training(facts, answer)


def header_only(adapter: Source, tensors: AdapterTensors, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tensors' dtypes and shapes for a load without their values: these are not wanted and not here, or too many."""
    most = options.get("header_above")
    many = most is not None and adapter.files().get(tensors.file, 0) > most
    if not many and (options.get("values", True) or adapter.path(tensors.file) is not None):
        return None
    return {name: [info.dtype, list(info.shape)] for name, info in tensors.tensors.items()}


def small_files(base: Source, options: Mapping[str, Any]) -> list[str]:
    """The files of a base that its skeleton is built from; its code only where that is trusted."""
    endings = (".json", ".py") if options.get("trust_remote_code") else (".json",)
    names = ("config.json", "generation_config.json") if len(endings) == 1 else ()
    return [
        name for name in base.files() if "/" not in name and (name in names or (not names and name.endswith(endings)))
    ]


def weight_files(base: Source) -> list[str]:
    """The files of a base that loading it whole needs: safetensors where there are any."""
    names = [name for name in base.files() if "/" not in name]
    safe = [name for name in names if name.endswith(".safetensors")]
    return [name for name in names if name.endswith((".json", ".txt", ".model"))] + (
        safe or [name for name in names if name.endswith(".bin")]
    )


def _needs_weights(config: AdapterConfig, facts: Facts) -> bool:
    """Whether this method's tensors depend on the base's own values, and these are on this disk and not too large."""
    checkpoint = facts.get(BaseCheckpoint)
    if config.peft_type not in NEEDS_BASE_VALUES or isinstance(checkpoint, Missing):
        return False
    return sum(info.end - info.start for info in checkpoint.tensors.values()) <= MAX_WEIGHTS


def _ask(child: LoadingChild, request: dict[str, Any], facts: Facts, time_limit: float) -> dict[str, Any]:
    """The child's answer; where the base's class lives in its repository, one for a stand-in made of its checkpoint."""
    answer = child.ask(request, time_limit)
    refusal, checkpoint, config = answer.get("refusal"), facts.get(BaseCheckpoint), facts.get(AdapterConfig)
    foreign = (
        refusal and refusal["stage"] in ("base config", "base class", "base model") and not request.get("model_class")
    )
    if not foreign or isinstance(checkpoint, Missing) or isinstance(config, Missing):
        return answer
    base = facts.get(BaseConfig)
    targets = config.get("target_modules")
    # What all-linear leaves out, and what null stands for, only the model's own class could tell.
    if not isinstance(base, BaseConfig) or not base.needs_remote_code or targets in (None, "all-linear"):
        return answer
    modules = modules_as_named(checkpoint).modules
    tree = {
        name: [one.kind, {own: list(shape) for own, shape in one.parameters.items()}] for name, one in modules.items()
    }
    return {**child.ask({**request, "stand_in": tree}, time_limit), "stand_in": True}


def tree_name(facts: Facts, model_class: str | None) -> str:
    """The name under which the module tree of this base is kept for this adapter."""
    config, tensors, base_config = facts.get(AdapterConfig), facts.get(AdapterTensors), facts.get(BaseConfig)
    environment = facts.get(Environment)
    assert isinstance(config, AdapterConfig)
    assert isinstance(tensors, AdapterTensors)
    assert isinstance(base_config, BaseConfig)
    version = environment.version("transformers") if isinstance(environment, Environment) else None
    paths = [one.module for one in map(parse, tensors) if one is not None]
    return tree_cache.key(
        base_config.raw,
        config.task_type,
        config.get("auto_mapping"),
        model_class,
        version,
        [*paths, f"labels {labels_in(tensors)}"],
    )


def tree_kept(facts: Facts, model_class: str | None) -> bool:
    """Whether an earlier load left the module tree of this base, so that its weights need not be looked at."""
    if any(isinstance(facts.get(kind), Missing) for kind in (AdapterConfig, AdapterTensors, BaseConfig)):
        return False
    return tree_cache.read(tree_name(facts, model_class)) is not None


def load_in_memory(
    model: Any, adapter: Source, facts: Facts, load: Load, training: Mapping[str, Any] | None = None
) -> Facts:
    """The load on a copy of the model's structure, in this process: what the model holds is not touched."""
    from adapter_doctor.loading import child

    if hasattr(model, "peft_config"):
        raise DoctorError(
            "the model in memory already carries an adapter, and a second one on top would be doubly wrapped",
            "pass the base model: `model.unload()`, or load it anew",
        )
    raw = model.config.to_dict() if hasattr(model, "config") and hasattr(model.config, "to_dict") else {}
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    facts = facts.adding(BaseFolder(name or type(model).__name__, True, files={"config.json": 0}), BaseConfig(raw))
    facts = facts.lacking(Missing("the base is a model in memory, not files", waived=True), BaseCheckpoint)
    config, tensors = facts.get(AdapterConfig), facts.get(AdapterTensors)
    if isinstance(config, Missing) or isinstance(tensors, Missing):
        return facts.lacking(Missing("nothing could be loaded"), BaseModules, Fit, LoadOutcome)
    if load == "no":
        facts = facts.adding(modules_from(child.module_tree(model), "memory"))
        return facts.lacking(waived("load='no'"), LoadOutcome)
    request = load_request("", str(adapter.path("")), config, tensors, BaseConfig(raw), **(training or {}))
    answer = child.answer(request, model)
    return _with_training(read_answer(facts, answer, "skeleton", "memory"), answer)


def trainables_in_memory(model: Any) -> tuple[TrainableParameters, dict[str, Any]]:
    """What trains in a PeftModel in memory, which is left as it is, and the config of its active adapter."""
    from adapter_doctor.loading import child

    active = model.active_adapter
    active = active if isinstance(active, str) else active[0]
    config = dict(model.peft_config[active].to_dict())
    seen = child.Listener()
    seen.places = child.list_places(model, active)
    kind = config.get("peft_type")
    facts = _with_training(Facts(), child.training(model, {"peft_type": str(getattr(kind, "value", kind))}, seen))
    trainables = facts.get(TrainableParameters)
    assert isinstance(trainables, TrainableParameters)
    return trainables, config


def bare_copy(model: Any) -> Any:
    """The base of a PeftModel as a copy without weights and without the adapter."""
    from adapter_doctor.loading import child

    base = child.as_meta(model).unload()
    if hasattr(base, "peft_config"):
        del base.peft_config
    return base
