"""AD701: engine refuses."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Serving
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.serving._sayings import hits


@rule("AD701", Severity.ERROR)
def engine_refuses(serving: Serving) -> Iterator[Hit]:
    """An engine named with `--for` refuses the adapter, or cannot serve this kind of base.

    ## Why it matters
    It cannot be served as it is.

    ## Common causes
    DoRA, whole modules saved with the adapter, a rank beyond the engine's largest, or a format that it does not read.

    ## Fix
    `adapter-doctor fix BASE ADAPTER --for ENGINE` writes an equal adapter that the engine honours, where there is one;
    otherwise merge the adapter into the base and serve the merged model.
    """
    yield from hits(serving, "refused", "inapplicable")
