"""Whether training can go on from a checkpoint: the stages of an examination, with the checkpoint's own facts added."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_doctor.doctor import examine
from adapter_doctor.engine import judge
from adapter_doctor.errors import DoctorError
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterTensors,
    BaseModules,
    Checkpoint,
    ConfigFile,
    Facts,
    Fit,
    Missing,
    OptimizerState,
    OptimizerValues,
    ResumePlan,
    RunOutcome,
    Serving,
    TrainableParameters,
    WeightsFiles,
)
from adapter_doctor.formats import bounded_json
from adapter_doctor.formats.parameter_splits import in_places
from adapter_doctor.gather.adapter import CONFIG
from adapter_doctor.gather.checkpoint import adapter_folder, complete, gather_training, numbered
from adapter_doctor.gather.shard_values import gather_shard_values
from adapter_doctor.loading.process import DEFAULT_TIME_LIMIT, LoadingChild
from adapter_doctor.loading.stage import (
    LOADS,
    Load,
    bare_copy,
    trainables_in_memory,
    waived,
)
from adapter_doctor.opening import open_source
from adapter_doctor.report import Report, build
from adapter_doctor.rules import Rule, rules_of
from adapter_doctor.selection import chosen_rules, passed_over
from adapter_doctor.sources import Source, Unreachable
from adapter_doctor.sources.disk import DiskSource
from adapter_doctor.suppression import suppress
from adapter_doctor.trainables import foretell_trainables

if TYPE_CHECKING:
    import torch


def resume(
    base: str | Path | torch.nn.Module | None,
    checkpoint: str | Path,
    *,
    load: Load = "skeleton",
    optim: str | None = None,
    world_size: int | None = None,
    batch_size: int | None = None,
    select: Iterable[str] = (),
    ignore: Iterable[str] | Mapping[str, str] = (),
    model_class: str | None = None,
    trust_remote_code: bool = False,
    values: bool = True,
    time_limit: float = DEFAULT_TIME_LIMIT,
    python: str | None = None,
    cache: bool = True,
    base_revision: str | None = None,
    checkpoint_revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    child: LoadingChild | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Examine whether training can go on from ``checkpoint`` on ``base``.

    ``checkpoint`` is a `checkpoint-N` folder, the output folder that holds several (the newest usable one is taken), or
    a file with an optimizer's state beside an adapter. ``base`` is as for :func:`adapter_doctor.check`; it may also be
    the PeftModel in memory that is to be trained, whose config and trainable parameters then count. ``optim`` (a name as
    in `TrainingArguments.optim`), ``world_size`` (processes) and ``batch_size`` (per device) tell how the run is to go
    on where that differs from the checkpoint's own `training_args.bin`. The other options are those of ``check``.

    Raises:
        DoctorError: the arguments contradict each other. What is wrong with a checkpoint never raises.
    """
    for name, number in (("world_size", world_size), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise DoctorError(f"{name} is {number}, expected 1 or more")
    if load not in LOADS:
        raise DoctorError(f"load is {load!r}, expected one of {', '.join(LOADS)}")
    if not time_limit > 0:
        raise DoctorError(f"the time limit is {time_limit:g} seconds, expected more than 0")
    reasons = ignore if isinstance(ignore, Mapping) else dict.fromkeys(ignore, "at your request")
    rules = _without_running(chosen_rules(select, reasons, "resume"))
    opening = {"token": token, "offline": offline, "deadline": time.monotonic() + time_limit, "progress": progress}
    source, optimizer, found, notes = _the_checkpoint(str(checkpoint), checkpoint_revision, opening)
    said = {"optimizer": optim, "world": world_size, "batch": batch_size}
    plan = ResumePlan(**said, told=frozenset(name for name, value in said.items() if value is not None))  # type: ignore[arg-type]
    trained: TrainableParameters | None = None
    if hasattr(base, "peft_config") and hasattr(base, "named_modules"):
        trained, config = trainables_in_memory(base)
        plan = replace(plan, config=config, told=plan.told | {"config"})
        base = bare_copy(base)
    training = gather_training(source, Facts(), optimizer, plan, **found)
    examined = examine(
        base, _adapter_in(source, opening), load=load, model_class=model_class, trust_remote_code=trust_remote_code,
        values=values, time_limit=time_limit, python=python, cache=cache, base_revision=base_revision, token=token,
        offline=offline, child=child, progress=progress, training=_asked(source, training, values),
    )  # fmt: skip
    facts = Facts({**examined.facts.known, **training.known})
    facts = facts.adding(trained) if trained is not None else _with_trainables(facts, load == "no")
    facts = _as_it_is_read(facts)
    facts = _with_values(source, facts, load == "no", values)
    facts = facts.lacking(Missing("no --for", waived=True), Serving)
    outcomes, suppressed = suppress(judge(rules, facts), reasons, frozenset())
    left_out = passed_over(_without_running(rules_of("resume")), rules)
    report = build((*outcomes, *left_out), facts, examined.reference, (*notes, *examined.notes), suppressed)
    return replace(report, notes=(*report.notes, *_advice(facts, report)))


def _without_running(rules: tuple[Rule[...], ...]) -> tuple[Rule[...], ...]:
    """Those that need no forward pass, which a resume does not begin with."""
    return tuple(rule for rule in rules if RunOutcome not in (kind for _, kind in rule.reads))


def _the_checkpoint(
    text: str, revision: str | None, opening: Mapping[str, Any]
) -> tuple[Source, str | None, dict[str, Any], list[str]]:
    """The checkpoint that is meant, the name of its optimizer file where that was given, and how it was chosen."""
    path = Path(text)
    if "\0" not in text and path.is_file():
        return DiskSource(path.parent, str(path.parent)), path.name, {}, []
    source, notes = open_source(text, revision, None, **opening)
    try:
        files = source.files()
        names = [] if "optimizer.pt" in files else numbered(files)
    except Unreachable:  # the adapter that is not there says so
        return source, None, {}, notes
    if not names:
        return source, None, {}, notes

    def inside(name: str) -> Source:
        return open_source(f"{source.reference.rstrip('/')}/{name}", revision, None, **opening)[0]

    broken: list[tuple[str, str]] = []
    for name in names:
        why = complete(inside(name))
        if not why:
            break
        broken.append((name, why))
    else:
        name, broken = names[0], []
    rest = names[names.index(name) + 1 :]
    older = tuple(one for one in rest if not complete(inside(one)))
    siblings = {one: config for one in names if one != name and (config := _config_of(inside(one))) is not None}
    told = f"{name} was taken, of {len(names)} checkpoints in {source.reference}"
    told += f"; usable as well: {', '.join(older[:5])}" if older else ""
    found = {"broken": tuple(broken), "older": older, "siblings": siblings}
    return inside(name), None, found, [*notes, told] if len(names) > 1 else notes


def _config_of(source: Source) -> Mapping[str, Any] | None:
    try:
        return bounded_json.parse_object(source.read(CONFIG))
    except (bounded_json.BadJson, Unreachable):
        return None


def _adapter_in(source: Source, opening: Mapping[str, Any]) -> Source:
    """The folder of the adapter: the checkpoint itself, or the one in it that is named after the adapter."""
    try:
        folder = adapter_folder(source.files())
    except Unreachable:
        return source
    if not folder:
        return source
    path = source.path("")
    reference = f"{source.reference.rstrip('/')}/{folder}"
    return DiskSource(path / folder, reference) if path is not None else open_source(reference, **opening)[0]


def _asked(source: Source, facts: Facts, values: bool) -> dict[str, Any]:
    """What the child is asked for beyond the load."""
    state = facts.get(OptimizerState)
    if not values or isinstance(state, Missing) or state.absent or _in_parts(facts):
        return {"train": True}
    path = source.path(state.file)
    return {"train": True, "optimizer": str(path.absolute()), "inside": state.inside} if path else {"train": True}


def _in_parts(facts: Facts) -> bool:
    """Whether the optimizer's state lies in other files than the one that torch would load."""
    checkpoint = facts.get(Checkpoint)
    return (
        not isinstance(checkpoint, Missing)
        and checkpoint.shards is not None
        and checkpoint.optimizer not in checkpoint.files
    )


def _as_it_is_read(facts: Facts) -> Facts:
    """FSDP pairs moments with parameters by name; it and accelerate may save a model without an adapter's files."""
    checkpoint, state = facts.get(Checkpoint), facts.get(OptimizerState)
    if isinstance(checkpoint, Missing):
        return facts
    trained = facts.get(TrainableParameters)
    by_name = checkpoint.writer == "fsdp" and isinstance(state, OptimizerState)
    if by_name and isinstance(trained, TrainableParameters):
        facts = facts.adding(in_places(state, trained))  # type: ignore[arg-type]
    if _without_adapter_files(checkpoint):
        why = Missing("the adapter lies among the model's own weights; how it was made is in the training's code alone")
        own = (ConfigFile, WeightsFiles, AdapterConfig, AdapterTensors)
        facts = Facts({kind: one for kind, one in facts.known.items() if kind not in own}).lacking(why, *own)
    return facts


def _without_adapter_files(checkpoint: Checkpoint) -> bool:
    own = checkpoint.writer == "fsdp" or checkpoint.by_accelerate
    return own and adapter_folder(checkpoint.files) is None


def _with_values(source: Source, facts: Facts, static: bool, values: bool) -> Facts:
    """What the values of the moments tell: read by the child, and of an engine's shards here, which it cannot load."""
    checkpoint = facts.get(Checkpoint)
    shards = checkpoint.shards if isinstance(checkpoint, Checkpoint) and _in_parts(facts) else None
    if shards is not None and values and not static:
        state = facts.get(OptimizerState)
        if shards.parts:
            read = gather_shard_values(source, shards)
        elif isinstance(state, Missing) or not state.moments:
            read = state if isinstance(state, Missing) else OptimizerValues()
        elif source.path("") is None:
            read = Missing("the checkpoint is on the Hub; download it to have the values of its moments read")
        else:
            lacking = bool(shards.lost or shards.broken)
            read = Missing("files are missing" if lacking else "it is not known where the moments lie", lacking)
        return facts.lacking(read, OptimizerValues) if isinstance(read, Missing) else facts.adding(read)
    return facts.lacking(_why_unread(source, facts, static, values), OptimizerValues)


def _why_unread(source: Source, facts: Facts, static: bool, values: bool) -> Missing:
    """Why the values of the moments are not known."""
    state = facts.get(OptimizerState)
    if isinstance(state, Missing):
        return state
    if static or not values:
        return waived("--load no" if static else "--no-values")
    if source.path(state.file) is None:
        return Missing(f"{state.file} is on the Hub; download the checkpoint to have its values read")
    return Missing("the load ended before the moments were read")


def _with_trainables(facts: Facts, static: bool) -> Facts:
    """The parameters that train, foretold where nothing was loaded."""
    if isinstance(facts.get(TrainableParameters), TrainableParameters):
        return facts
    config, modules, fit = facts.get(AdapterConfig), facts.get(BaseModules), facts.get(Fit)
    for fact in (config, modules, fit):
        if isinstance(fact, Missing):
            return facts.lacking(Missing(f"what trains is not known: {fact.why}", fact.waived), TrainableParameters)
    if not static:
        return facts.lacking(Missing("the load ended before it was known what trains"), TrainableParameters)
    foretold = foretell_trainables(config, modules, fit)  # type: ignore[arg-type]
    return facts.lacking(foretold, TrainableParameters) if isinstance(foretold, Missing) else facts.adding(foretold)


# ------------------------------------------------------------------------------------------------ what to do next


def _advice(facts: Facts, report: Report) -> list[str]:
    """How to go on, and what would be lost without the optimizer's state."""
    checkpoint, state = facts.get(Checkpoint), facts.get(OptimizerState)
    if isinstance(checkpoint, Missing):
        return []
    said = []
    if report.verdict != "incompatible":
        config = facts.get(AdapterConfig)
        prompt = isinstance(config, AdapterConfig) and config.is_prompt_learning
        said.append("to go on: " + how_to_resume(checkpoint, state, prompt))
    plan = facts.get(ResumePlan)
    if _without_adapter_files(checkpoint) and not (isinstance(plan, ResumePlan) and plan.config):
        call = f"adapter_doctor.resume(model, {checkpoint.reference!r})"
        said.append(f"from Python `{call}` holds the state against the PeftModel that is to be trained")
    if isinstance(state, OptimizerState) and (lost := what_is_lost(state)):
        said.append(lost)
    return said


def how_to_resume(checkpoint: Checkpoint, state: OptimizerState | Missing, prompt: bool = False) -> str:
    """The line of code that resumes rightly."""
    place = checkpoint.reference
    if checkpoint.by_accelerate:
        return f"prepare the same model, optimizer and scheduler, then `accelerator.load_state({place!r})`"
    if _without_adapter_files(checkpoint):
        return f"`model = get_peft_model(base, config)` with the config of the training, then {_go_on(checkpoint)}"
    folder = "/".join(filter(None, (place.rstrip("/"), checkpoint.adapter_folder)))
    model = f"model = PeftModel.from_pretrained(base, {folder!r}, is_trainable=True)"
    if checkpoint.writer == "torch":
        inside = f"[{state.inside!r}]" if isinstance(state, OptimizerState) and state.inside else ""
        read = f"torch.load({f'{place}/{checkpoint.optimizer}'!r}, weights_only=True){inside}"
        return f"`{model}`, the same optimizer on its trainable parameters, `optimizer.load_state_dict({read})`"
    name = re.fullmatch(r"[\w.-]+", checkpoint.adapter_folder)
    if name:
        model = model.replace(", is_trainable", f", adapter_name={name[0]!r}, is_trainable")
    if prompt:  # PEFT refuses to load a learnt prompt for training; the Trainer loads it into a new one
        model = "model = get_peft_model(base, config)` with the config of the training, not the saved one"
        return f"`{model}, then {_go_on(checkpoint)}"
    return f"`{model}`, then {_go_on(checkpoint)}"


def _go_on(checkpoint: Checkpoint) -> str:
    under = {"deepspeed": " under DeepSpeed as before", "fsdp": " under FSDP as before"}.get(checkpoint.writer, "")
    return f"`trainer.train(resume_from_checkpoint={checkpoint.reference!r})`{under}"


def what_is_lost(state: OptimizerState) -> str:
    """What going on without the optimizer's state would throw away; empty where it holds nothing."""
    kept = [one for one in state.moments.values() if one.tensors]
    if not kept:
        return ""
    beside = re.compile(r"step|RMS|(qmap|absmax)\d|unorm_vec|scaled_grad")
    names = sorted({name for one in kept for name in one.tensors if not beside.fullmatch(name)})
    after = f" of {max(state.steps):,.0f} steps" if state.steps else ""
    rates = [group.options.get("lr") for group in state.groups]
    rate = next((one for one in rates if isinstance(one, float)), None)
    return (
        f"without {state.file} the moments{after} ({', '.join(names[:4])} of {len(kept)} parameters) begin at zero and the"
        f" learning rate {f'{rate:g} ' if rate is not None else ''}starts its schedule again: a warm start, not a resume"
    )
