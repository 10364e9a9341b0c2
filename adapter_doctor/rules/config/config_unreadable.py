"""AD102: config unreadable."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import ConfigFile
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD102", Severity.ERROR, explains=("AD5",))
def config_unreadable(config: ConfigFile) -> Iterator[Hit]:
    """The adapter's `adapter_config.json` cannot be read as a JSON object.

    ## Why it matters
    PEFT reads it with Python's `json` and raises; it tolerates no comment, no trailing comma and no byte order mark.

    ## Common causes
    Edited by hand, cut off by a full disk or a broken download, saved as UTF-16 or with a byte order mark, replaced by
    a Git LFS pointer or an error page.

    ## Fix
    Run `python -m json.tool adapter_config.json`, mend what it names, or copy the file again from where it was saved.
    """
    if not config.file.ok and config.file.state != "absent":
        detail = config.file.detail or f"is {config.file.state}"
        yield Hit(f"{config.file.name} {detail}; expected a JSON object in UTF-8", where=config.file.name)
