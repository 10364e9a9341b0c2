"""The stage of serving: the engines that were asked about, each with what it will do, as one fact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from adapter_doctor.errors import DoctorError
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterFolder,
    AdapterTensors,
    BaseConfig,
    BaseCopies,
    BaseModules,
    Facts,
    Missing,
    Serving,
    WeightsFiles,
)
from adapter_doctor.knowledge.profiles import Profile, engines, numbers, profile
from adapter_doctor.serving.case import Case
from adapter_doctor.serving.commands import commands
from adapter_doctor.serving.foresee import foresee
from adapter_doctor.serving.together import Adapter, clashes

NOT_ASKED = Missing("no --for", waived=True)
Asked = tuple[Profile, str | None, bool]


def asked(entries: Iterable[str]) -> tuple[Asked, ...]:
    """The profiles, versions and whether each was asked for by name, for entries such as ``vllm@0.33.0`` and ``all``.

    Raises:
        DoctorError: no profile has this name, or the engine no version like this.
    """
    found: dict[tuple[str, str | None], Asked] = {}
    for entry in entries:
        name, _, version = entry.strip().lower().partition("@")
        if name == "all" and not version:
            for one in engines():
                found.setdefault((one, None), (profile(one), None, False))
        elif name in engines():
            newest = profile(name).read[-1]
            if version and version not in profile(name).read and numbers(newest) and not numbers(version):
                raise DoctorError(f"{version!r} is no version of {profile(name).name}", f"--for {name}@{newest}")
            found[name, version or None] = (profile(name), version or None, True)
        else:
            raise DoctorError(f"no engine is called {entry!r}", f"--for {' | '.join((*engines(), 'all'))}")
    return tuple(found.values())


def with_serving(facts: Facts, engines_asked: Sequence[Asked], base: str, beside: Sequence[Facts] = ()) -> Facts:
    """``facts`` with what each engine will do with the adapter, and with those in ``beside`` that are served with it."""
    if not engines_asked:
        return facts.lacking(NOT_ASKED, Serving)
    case = _case(facts, facts)
    if isinstance(case, Missing):
        return facts.lacking(Missing(f"what engines will do cannot be told: {case.why}"), Serving)
    reference = _reference(facts)
    adapters = [Adapter(reference, case)]
    said: list[str] = []
    for other in beside:
        its_reference, its_case = _reference(other), _case(other, facts)
        if isinstance(its_case, Missing):
            said.append(f"{its_reference} cannot be served beside the others: {its_case.why}")
        else:
            adapters.append(Adapter(its_reference, its_case))
    outlooks = []
    for number, adapter in enumerate(adapters):
        for one, version, required in engines_asked:
            outlook = foresee(one, version, adapter.case, required=required)
            if number:
                outlook = replace(outlook, adapter=adapter.reference)
            else:
                outlook = replace(outlook, commands=commands(one, outlook, base, adapters))
            outlooks.append(outlook)
    return facts.adding(Serving(tuple(outlooks), (*said, *clashes(adapters))))


def _reference(facts: Facts) -> str:
    folder = facts.get(AdapterFolder)
    return folder.reference if isinstance(folder, AdapterFolder) else "adapter"


def _case(adapter: Facts, base: Facts) -> Case | Missing:
    config, tensors, base_config = adapter.get(AdapterConfig), adapter.get(AdapterTensors), base.get(BaseConfig)
    for fact in (config, tensors, base_config):
        if isinstance(fact, Missing):
            return fact
    assert isinstance(config, AdapterConfig)
    assert isinstance(tensors, AdapterTensors)
    assert isinstance(base_config, BaseConfig)
    rest = (base.get(BaseModules), adapter.get(AdapterFolder), adapter.get(WeightsFiles), adapter.get(BaseCopies))
    return Case(config, tensors, base_config, *rest)
