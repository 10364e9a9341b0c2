"""The stages of a repair, in order: examine, open, plan, write a copy, prove the copy by examining it. Then put it in place."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from adapter_doctor import knowledge
from adapter_doctor.comparison import compare
from adapter_doctor.doctor import Examination, examine, judged
from adapter_doctor.errors import DoctorError
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterFolder,
    AdapterTensors,
    BaseCheckpoint,
    BaseConfig,
    BaseCopies,
    BaseModules,
    Comparison,
    Facts,
    Fit,
    LoadOutcome,
    Missing,
)
from adapter_doctor.findings import Severity
from adapter_doctor.gather.values import compare_with_base
from adapter_doctor.loading.process import DEFAULT_TIME_LIMIT, LoadingChild
from adapter_doctor.loading.stage import load_in_child
from adapter_doctor.repair import opening, writing
from adapter_doctor.repair.advice import advice
from adapter_doctor.repair.destination import Destination, destination
from adapter_doctor.repair.outcome import Repair
from adapter_doctor.repair.plan import CannotMend, Draft, Planner, Wishes, plan
from adapter_doctor.repair.planners import PLANNERS
from adapter_doctor.report import Report
from adapter_doctor.sources.disk import DiskSource

LOSSES = ("rows", "layers", "nan")
MOST_LOADED = 100_000_000
"""Bytes of weights that are loaded with their values; of larger ones the header is, which takes no memory."""
_OPENING = ("base_revision", "adapter_revision", "subfolder", "token", "offline")


def fix(
    base: str | Path | None,
    adapter: str | Path,
    output: str | Path | None = None,
    *,
    dry_run: bool = False,
    for_peft: str | None = None,
    for_engine: str | None = None,
    losing: tuple[str, ...] = (),
    time_limit: float = DEFAULT_TIME_LIMIT,
    python: str | None = None,
    child: LoadingChild | None = None,
    progress: Callable[[str], None] | None = None,
    planners: tuple[Planner, ...] = PLANNERS,
    **options: Any,
) -> Repair:
    """Write to ``output`` a copy of ``adapter`` that works on ``base``, and prove it by loading the copy.

    The original is left as it is, and so is an adapter that works. ``dry_run`` plans and writes nothing. ``for_peft`` is
    a release that the copy's config should be read by; ``for_engine`` a serving engine (``sglang``, ``vllm@0.31.0`` …)
    that should honour the copy, or whose own format it should be in. ``losing`` accepts losses: any of ``rows``, ``layers`` and
    ``nan``. The other options are those of :func:`adapter_doctor.check`.

    Raises:
        DoctorError: the arguments contradict each other, or ``output`` is taken.
    """
    unknown = set(losing) - set(LOSSES)
    if unknown:
        raise DoctorError(f"losing {sorted(unknown)[0]!r} means nothing", f"any of {', '.join(LOSSES)}")
    if output is None and not dry_run:
        raise DoctorError(
            "a repair is written to a folder of its own, and none was given", "--output DIR, or --dry-run"
        )
    if not time_limit > 0:
        raise DoctorError(f"the time limit is {time_limit:g} seconds, expected more than 0")
    if for_peft is not None and not knowledge.is_version(for_peft):
        raise DoctorError(f"{for_peft!r} is no release of PEFT", f"--for-peft {knowledge.releases()[-1]}")
    place = writing.checked_place(Path(output)) if output is not None else None
    wishes = Wishes(for_peft, frozenset(losing))
    engine = destination(for_engine)
    with contextlib.ExitStack() as stack:
        child = child or stack.enter_context(LoadingChild(python, progress))
        options |= {"child": child, "time_limit": time_limit, "python": python, "progress": progress}
        options |= {"header_above": MOST_LOADED}
        found = examine(base, adapter, **options)
        found = replace(found, facts=engine.asked_of(found.facts, found.reference))
        before = judged(found)
        try:
            draft, facts = _planned(
                found, wishes, (*planners, *engine.planners(found.facts, found.adapter, found.base)), options
            )
        except CannotMend as why:
            return Repair("refused", before, why=str(why), advice=_advice(before, found))
        refusal = None if engine.exports and before.cause is None else _refusal(before, draft, facts)
        if refusal is not None:
            return replace(refusal, advice=_advice(before, found))
        if dry_run or place is None:
            return Repair("planned", before, None, draft, landed=_landing(facts))
        return _written(found, draft, before, place, options, engine)


def _refusal(before: Report, draft: Draft, facts: Facts) -> Repair | None:
    """The answer where there is no step to take: all is well, that cannot be told, or nothing can be done."""
    if draft.steps:
        return None
    if before.cause is None and before.verdict == "compatible":
        return Repair("healthy", before, None, draft)
    fits = facts.get(Comparison)
    why = "; ".join(draft.obstacles)
    if not why and before.cause is None:
        why = f"whether there is anything to mend could not be told: {before.summary.removeprefix('undetermined: ')}"
    elif not why and isinstance(fits, Missing):
        why = f"what would fit could not be measured: {fits.why}"
    elif not why and before.cause is not None:
        why = f"no repair is known for {before.cause.rule.code} {before.cause.rule.name}"
    return Repair("refused", before, None, draft, why=why)


def _advice(before: Report, found: Examination) -> tuple[str, ...]:
    folder = found.facts.get(AdapterFolder)
    files = folder.files if isinstance(folder, AdapterFolder) else {}
    return advice(before, files, found.adapter.path(""))


# ------------------------------------------------------------------------------------------------------- the plan


def _planned(
    found: Examination, wishes: Wishes, planners: tuple[Planner, ...], options: Mapping[str, Any]
) -> tuple[Draft, Facts]:
    """The steps, each measured by loading what the adapter would be after it.

    Raises:
        CannotMend: the adapter cannot be opened, or the base is not to be had.
    """
    if found.base is None or isinstance(found.facts.get(BaseConfig), Missing):
        raise CannotMend("the base could not be read, and what fits cannot be told without it")
    draft = opening.opened(found.adapter, found.facts)
    with tempfile.TemporaryDirectory(prefix="adapter-doctor-") as folder:
        measured = partial(_measure, found, Path(folder), options)
        return plan(draft, planners, measured, wishes)


class _DraftSource(DiskSource):
    """A draft as a source: its config lies in a folder, its tensors exist as a header only."""

    def path(self, name: str) -> Path | None:
        return None if name.startswith("adapter_model.") else super().path(name)


def _measure(found: Examination, folder: Path, options: Mapping[str, Any], draft: Draft) -> Facts:
    """Where PEFT puts the draft's tensors: its header is loaded, without values."""
    known = {kind: fact for kind, fact in found.facts.known.items() if kind not in (BaseModules, Fit, LoadOutcome, Comparison, BaseCopies)}  # fmt: skip
    if not draft.steps and isinstance(found.facts.get(LoadOutcome), LoadOutcome):
        return found.facts  # the draft is the adapter as it came, and that was loaded
    facts = draft.facts(Facts(known))
    (folder / "adapter_config.json").write_text(json.dumps(draft.config), encoding="utf-8")
    chosen = {name: options.get(name) for name in ("model_class", "trust_remote_code")} | {"values": False}
    facts = load_in_child(
        found.base, _DraftSource(folder, str(folder)), facts, "skeleton", False, chosen, options["time_limit"], options["python"],
        options["child"], options["progress"], False,
    )  # fmt: skip
    config, tensors, modules, base = (facts.get(kind) for kind in (AdapterConfig, AdapterTensors, BaseModules, BaseConfig))  # fmt: skip
    fit = facts.get(Fit)
    if isinstance(modules, Missing):
        return facts
    if isinstance(fit, Missing):
        fit = Fit("predicted")  # what PEFT would make of it is not known; the names still say something
    facts = facts.adding(_copies(found, draft, fit))
    return facts.adding(compare(tensors, modules, fit, base, config))  # type: ignore[arg-type]


def _copies(found: Examination, draft: Draft, fit: Fit) -> BaseCopies:
    """Tensors that would land on the base's weights, against the base's own bytes where both are on this disk."""
    from adapter_doctor.derive import checkpoint_name
    from adapter_doctor.repair.recipes import Kept

    checkpoint, folder = found.facts.get(BaseCheckpoint), found.base.path("") if found.base else None
    kept = {key: one.info for key in fit.overwriting if isinstance(one := draft.tensors.get(key), Kept)}
    same, different, unread = set[str](), set[str](), set(fit.overwriting) - kept.keys()
    for file in {info.file for info in kept.values()}:
        mine = {key: info for key, info in kept.items() if info.file == file}
        weights = found.adapter.path(file)
        if isinstance(checkpoint, Missing) or folder is None or weights is None:
            unread |= mine.keys()
            continue
        names = {key: checkpoint_name(key, checkpoint) for key in mine}
        found_here = compare_with_base(weights, mine, folder, checkpoint, names)
        same |= found_here.same
        different |= found_here.different
        unread |= found_here.unread
    return BaseCopies(frozenset(same), frozenset(different), frozenset(unread))


def _landing(facts: Facts) -> dict[str, int] | None:
    outcome = facts.get(LoadOutcome)
    if not isinstance(outcome, LoadOutcome) or outcome.died:
        return None
    return {"in_file": outcome.in_file, "landed": outcome.landed, "left_at_init": len(outcome.left_at_init)}


# ------------------------------------------------------------------------------------------------------- the copy


def _written(
    found: Examination, draft: Draft, before: Report, place: Path, options: dict[str, Any], engine: Destination
) -> Repair:
    """The copy, written beside its place, examined there, and moved to it if the examination proves it."""
    progress = options.get("progress")
    if progress is not None:
        progress(f"writing {len(draft.tensors)} tensors")
    with writing.workplace(place) as folder:
        try:
            writing.write(draft, found.adapter, folder)
        except CannotMend as trouble:
            return Repair("refused", before, None, draft, why=str(trouble), advice=_advice(before, found))
        own: dict[str, Any] = {name: value for name, value in options.items() if name not in _OPENING}
        again = examine(found.base, DiskSource(folder, str(place)), **own)
        again = replace(again, facts=engine.asked_of(again.facts, again.reference))
        after = judged(again)
        why = _unproven(after)
        if why:
            whole = "; ".join((*draft.obstacles, why))
            return Repair("refused", before, after, draft, why=whole, advice=_advice(before, found))
        try:
            with engine.exported(folder, again.facts, found.base, place, options) as finished:
                writing.put(finished, place)
        except CannotMend as trouble:
            return Repair("refused", before, after, draft, why=str(trouble), advice=_advice(before, found))
    return Repair("mended", before, after, draft, place)


def _unproven(after: Report) -> str:
    """Why the copy is not proven to work; empty where it is."""
    if after.cause is not None:
        others = [one for one in after.findings if one.rule.severity is Severity.ERROR and one.consequence_of is None]
        return f"the copy would still have {len(others)} errors: {after.summary.removeprefix('incompatible: ')}"
    if after.landed is None:
        why = after.open_questions[0][1] if after.open_questions else "nothing was loaded"
        return f"the copy could not be proven by a load: {why}"
    if after.landed["landed"] < after.landed["in_file"] or after.landed["left_at_init"]:
        return f"of the copy's {after.landed['in_file']} tensors only {after.landed['landed']} land"
    return ""
