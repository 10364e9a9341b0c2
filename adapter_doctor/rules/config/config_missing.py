"""AD101: config missing."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import ConfigFile
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD101", Severity.ERROR, explains=("AD201",))
def config_missing(config: ConfigFile) -> Iterator[Hit]:
    """The adapter has no `adapter_config.json`.

    ## Why it matters
    PEFT learns the method, the rank and the target modules from this file and raises "Can't find 'adapter_config.json'"
    without it.

    ## Common causes
    Only the weights were copied or uploaded; the wrong folder was given; the weights come from another trainer.

    ## Fix
    Copy `adapter_config.json` from the folder where the adapter was saved, or save it again with `save_pretrained`.
    """
    if config.file.state == "absent":
        yield Hit(f"there is no {config.file.name}, expected one beside the weights", where=config.file.name)
