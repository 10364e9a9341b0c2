"""The report: verdict, findings and what was looked at, as data; everything that is shown is read off it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from adapter_doctor.diagnosis import Diagnosis, Finding, diagnose
from adapter_doctor.engine import Fired, Outcome
from adapter_doctor.errors import DoctorError
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterFolder,
    AdapterTensors,
    BaseConfig,
    BaseFolder,
    BaseModules,
    Environment,
    Facts,
    LoadOutcome,
    Missing,
    Outlook,
    RunOutcome,
    Serving,
    WeightsFiles,
)
from adapter_doctor.findings import Severity, masked
from adapter_doctor.knowledge import origin
from adapter_doctor.picture import Picture, draw
from adapter_doctor.suppression import Suppressed

Verdict = Literal["compatible", "incompatible", "undetermined"]
Extent = Literal["static", "loaded", "run", "text"]
MOST_FILES = 100
"""Files of the adapter's folder that a report names."""
EXIT_CODES: Mapping[Verdict, int] = {"compatible": 0, "incompatible": 1, "undetermined": 3}


class AdapterError(DoctorError):
    """The adapter does not work on the base; ``report`` says why."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.summary)
        self.report = report

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: the diagnosis."""
        from adapter_doctor.notebook import instead_of_traceback
        from adapter_doctor.render.visible import visible

        return instead_of_traceback(self.report, visible(self.message))


@dataclass(frozen=True)
class Report:
    """The result of one examination. It holds no clock and no temporary path: the same inputs give the same report.

    ``base``, ``adapter`` and ``environment`` describe what was examined; ``landed`` counts what became of the tensors,
    or is None where nothing was loaded. ``suppressed`` are findings that the user knows of and that count no more.
    ``serving`` has what each engine asked about will do.
    ``text`` describes the text that was explained, if one was.
    """

    diagnosis: Diagnosis
    examined: Extent
    base: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str | None] = field(default_factory=dict)
    landed: Mapping[str, int] | None = None
    notes: tuple[str, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    serving: tuple[Outlook, ...] = ()
    picture: Picture = field(default_factory=Picture)
    text: Mapping[str, Any] | None = None

    @property
    def verdict(self) -> Verdict:
        """``incompatible`` when an ERROR fired; ``undetermined`` when one could not be examined; else ``compatible``."""
        if self.cause is not None:
            return "incompatible"
        if self.open_questions:
            return "undetermined"
        return "compatible"

    @property
    def open_questions(self) -> tuple[tuple[str, str], ...]:
        """(code, why) of every ERROR rule that was not examined although the user did not waive it."""
        unknown = [
            (one.rule.code, one.why)
            for one in self.diagnosis.unknown
            if one.rule.severity is Severity.ERROR and not one.waived
        ]
        crashed = [(one.rule.code, one.error) for one in self.diagnosis.crashed if one.rule.severity is Severity.ERROR]
        return tuple(unknown + crashed)

    @property
    def cause(self) -> Finding | None:
        """The principal finding: the one whose cure makes the others go away."""
        return self.diagnosis.cause

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, the cause first."""
        return self.diagnosis.findings

    @property
    def exit_code(self) -> int:
        """0 compatible, 1 incompatible, 3 undetermined."""
        return EXIT_CODES[self.verdict]

    @property
    def summary(self) -> str:
        """The verdict and its reason in one line."""
        if self.cause is not None:
            return f"incompatible: {self.cause.rule.code} {self.cause.rule.name}: {self.cause.hits[0].message}"
        if self.verdict == "undetermined":
            return f"undetermined: {self.open_questions[0][1]}"
        return "compatible"

    def raise_for_errors(self) -> None:
        """Do nothing if compatible.

        Raises:
            AdapterError: incompatible or undetermined.
        """
        if self.verdict != "compatible":
            raise AdapterError(self)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data, schema 1."""
        from adapter_doctor.render.json import to_dict

        return to_dict(self)

    def __str__(self) -> str:
        from adapter_doctor.render.text import render

        return render(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """The report as a notebook shows it: HTML, and text where HTML is not shown."""
        from adapter_doctor.render.html import fragment

        return {"text/html": fragment(self), "text/plain": str(self)}


def build(
    outcomes: Iterable[Outcome],
    facts: Facts,
    base_reference: str,
    said: tuple[str, ...] = (),
    suppressed: tuple[Suppressed, ...] = (),
) -> Report:
    """The report of one examination, from its outcomes and the facts that describe what was examined."""
    folder, config, tensors = facts.get(AdapterFolder), facts.get(AdapterConfig), facts.get(AdapterTensors)
    base_folder, base_config, outcome = facts.get(BaseFolder), facts.get(BaseConfig), facts.get(LoadOutcome)
    environment, weights, modules = facts.get(Environment), facts.get(WeightsFiles), facts.get(BaseModules)
    loaded = isinstance(outcome, LoadOutcome) and not outcome.died
    adapter: dict[str, Any] = {
        "reference": masked(folder.reference) if isinstance(folder, AdapterFolder) else None,
        "revision": folder.revision if isinstance(folder, AdapterFolder) else None,
        "peft_type": config.peft_type or None if isinstance(config, AdapterConfig) else None,
        "task_type": config.task_type or None if isinstance(config, AdapterConfig) else None,
        "rank": _rank(config),
        "tensors": len(tensors) if isinstance(tensors, AdapterTensors) else None,
        "parameters": sum(one.count for one in tensors.tensors.values()) if isinstance(tensors, AdapterTensors) else None,
        "files": dict(sorted(folder.files.items())[:MOST_FILES]) if isinstance(folder, AdapterFolder) else {},
        "weights_file": weights.chosen.name if isinstance(weights, WeightsFiles) and weights.chosen else None,
    }  # fmt: skip
    told = origin(config.raw) if isinstance(config, AdapterConfig) else (None, None)
    adapter["written_by"], adapter["readable_since"] = told
    base = {
        "reference": masked(base_reference) or None,
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
    notes = list(said)
    unknown_code = isinstance(base_config, BaseConfig) and base_config.needs_remote_code
    named = isinstance(modules, BaseModules) and modules.origin == "checkpoint"
    if (isinstance(outcome, LoadOutcome) and outcome.stand_in) or (unknown_code and named):
        notes.append("the base's own code was not run: it was judged by the names and shapes in its checkpoint")
    if isinstance(modules, BaseModules) and modules.origin == "cache":
        notes.append("the base's module names are those of an earlier load with the same config and transformers")
    serving = facts.get(Serving)
    outlooks = serving.outlooks if isinstance(serving, Serving) else ()
    return Report(
        diagnose(outcomes),
        examined,
        base,
        adapter,
        versions,
        landed,
        tuple(map(masked, notes)),
        suppressed,
        outlooks,
        draw(facts),
    )


def _rank(config: AdapterConfig | Missing) -> int | None:
    if isinstance(config, Missing):
        return None
    value = config.get("r", config.get("init_r"))
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def extended(
    report: Report, outcomes: Iterable[Outcome], suppressed: tuple[Suppressed, ...], notes: tuple[str, ...] = ()
) -> Report:
    """The report with the outcomes of further rules: the cause may be another one then."""
    old = report.diagnosis
    fired = (Fired(one.rule, one.hits) for one in old.findings)
    return replace(
        report,
        diagnosis=diagnose((*fired, *old.unknown, *old.crashed, *outcomes)),
        suppressed=(*report.suppressed, *suppressed),
        notes=(*report.notes, *notes),
    )
