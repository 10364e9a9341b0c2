"""Which fields of a config the installed PEFT does not have yet, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adapter_doctor import knowledge
from adapter_doctor.facts import AdapterConfig, Environment
from adapter_doctor.findings import Hit, some
from adapter_doctor.rules.config._values import CONFIG, installed_release, is_before, shown


@dataclass(frozen=True, slots=True)
class NewerField:
    """A field that the installed release drops: its value, the release that brought it, whether the model changes."""

    name: str
    value: Any
    first: str
    harmless: bool


def newer_fields(config: AdapterConfig, environment: Environment) -> list[NewerField]:
    """The fields newer than the installed PEFT, without those that hold their default; none where PEFT is absent."""
    installed = installed_release(environment)
    if installed is None or not config.peft_type:
        return []
    unknown = knowledge.unknown_fields(config.raw, installed)
    return [
        NewerField(name, config.raw[name], span.first, name in knowledge.FOR_TRAINING)
        for name, span in unknown.items()
        if span is not None and is_before(installed, span.first) and not span.is_default(config.raw[name])
    ]


def newer_fields_hit(fields: list[NewerField], environment: Environment, consequence: str) -> Hit:
    """One hit for all of them; ``consequence`` says what dropping them does."""
    needed = max((one.first for one in fields), key=knowledge.releases().index)
    named = ", ".join(f"`{one.name}` ({one.first})" for one in fields[:5])
    return Hit(
        f"{len(fields)} fields need a newer PEFT than the installed {environment.version('peft')}, which {consequence}:"
        f" {named}"
        if len(fields) > 1
        else f"`{fields[0].name}` came with PEFT {fields[0].first}; the installed {environment.version('peft')}"
        f" {consequence}",
        where=CONFIG,
        count=len(fields),
        examples=some(f"{one.name}: {shown(one.value)}" for one in fields),
        fix=f"pip install 'peft>={needed}'",
    )
