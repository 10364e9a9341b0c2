"""AD105: unknown field."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from adapter_doctor import knowledge
from adapter_doctor.facts import AdapterConfig
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG, shown


@rule("AD105", Severity.WARNING)
def unknown_field(config: AdapterConfig) -> Iterator[Hit]:
    """The config has a field that no PEFT release knows.

    ## Why it matters
    PEFT warns and goes on without it, so whatever it was meant to say is not done; PEFT 0.6 to 0.13 raise instead.

    ## Common causes
    A typing error; a field of another method; a fork or a trainer that writes fields of its own.

    ## Fix
    Correct the name, or remove the field from adapter_config.json if nothing depends on it.
    """
    known = knowledge.fields_of(config.peft_type)
    strange = [name for name in config.raw if name not in known] if known else []
    if not strange:
        return
    meant = {name: close[0] for name in strange if (close := difflib.get_close_matches(name[:100], known, 1, 0.8))}
    owners = {name: _types_with(name) for name in strange if name not in meant}
    hints = [f"`{name[:60]}` may mean `{field}`" for name, field in meant.items() if field not in config.raw]
    hints += [f"`{name[:60]}` is a field of {types[0]}" for name, types in owners.items() if types]
    yield Hit(
        f"{len(strange)} of {len(config.raw)} fields are unknown to {config.peft_type} in every PEFT release:"
        f" {', '.join(f'`{name[:60]}`' for name in strange[:5])}" + (f" ({'; '.join(hints[:3])})" if hints else ""),
        where=CONFIG,
        count=len(strange),
        examples=some(f"{name[:60]}: {shown(config.raw[name])}" for name in strange),
    )


def _types_with(name: str) -> list[str]:
    """The PEFT types that have such a field, the commonest first."""
    types = [peft_type for peft_type in sorted(knowledge.peft_types()) if name in knowledge.fields_of(peft_type)]
    return sorted(types, key=lambda one: one != "LORA")
