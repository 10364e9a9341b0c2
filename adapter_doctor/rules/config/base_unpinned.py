"""AD115: base unpinned."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.base_names import is_local_path
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG


@rule("AD115", Severity.NOTE)
def base_unpinned(config: AdapterConfig) -> Iterator[Hit]:
    """The config does not record which revision of the base the adapter was trained on.

    ## Why it matters
    A base on the Hub can change under its name, and the adapter then sits on weights that it was not trained for.

    ## Common causes
    The base was loaded without `revision=`, as nearly everybody does.

    ## Fix
    Set `revision` in adapter_config.json to the commit of the base that the training used.
    """
    named = config.base_name.strip()
    revision = config.get("revision")
    if not named or is_local_path(named):
        return
    if not revision:
        yield Hit(f"the base {named!r} is named without a `revision`, expected a commit", where=CONFIG)
    elif revision == "main":
        yield Hit(f"the base {named!r} is named at `revision` 'main', which moves; expected a commit", where=CONFIG)
