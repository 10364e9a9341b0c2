"""AD702: served wrongly."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Serving
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.serving._sayings import hits


@rule("AD702", Severity.ERROR)
def served_wrongly(serving: Serving) -> Iterator[Hit]:
    """An engine named with `--for` takes the adapter and computes something else than was trained.

    ## Why it matters
    Nothing fails: the outputs are the base's, or those of an update that is too weak or too strong.

    ## Common causes
    rsLoRA and `alpha_pattern`, which many engines do not read; tensors that they drop; names that they do not find.

    ## Fix
    `adapter-doctor fix BASE ADAPTER --for ENGINE` writes an equal adapter that the engine honours, where there is one;
    otherwise merge the adapter into the base and serve the merged model.
    """
    yield from hits(serving, "wrong")
