"""AD116: field changes model."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, Environment
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._newer_fields import newer_fields, newer_fields_hit


@rule("AD116", Severity.ERROR, explains=("AD211", "AD303", "AD304", "AD305", "AD306", "AD5"))
def field_changes_model(config: AdapterConfig, environment: Environment) -> Iterator[Hit]:
    """The config has a field that is newer than the installed PEFT, and that the adapter does not work without.

    ## Why it matters
    PEFT warns and drops it. The field decides which modules are adapted, their shapes or their scaling, so the loaded
    model is another one than was trained: DoRA without its magnitudes, rsLoRA with the wrong factor.

    ## Common causes
    The adapter was trained with a newer PEFT than the one that is installed here.

    ## Fix
    Install the PEFT release that the message names, or a later one.
    """
    found = [one for one in newer_fields(config, environment) if not one.harmless]
    if found:
        yield newer_fields_hit(found, environment, "drops it" if len(found) == 1 else "drops them")
