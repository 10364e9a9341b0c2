"""AD703: first request fails."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Serving
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.serving._sayings import hits


@rule("AD703", Severity.ERROR)
def first_request_fails(serving: Serving) -> Iterator[Hit]:
    """An engine named with `--for` loads the adapter and fails when it is first used.

    ## Why it matters
    The server starts and looks healthy until the first request for the adapter.

    ## Common causes
    Ranks that differ between modules, or tensors that the engine copies without knowing them.

    ## Fix
    `adapter-doctor fix BASE ADAPTER --for ENGINE` writes an equal adapter that the engine honours, where there is one;
    otherwise merge the adapter into the base and serve the merged model.
    """
    yield from hits(serving, "late")
