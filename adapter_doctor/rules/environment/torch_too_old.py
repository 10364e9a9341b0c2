"""AD405: torch too old."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Environment, LoadOutcome, Missing
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.environment._versions import is_older

# The first release of transformers that asks for a torch, from the metadata of 4.48 to 5.23 (its extra `torch`).
_NEEDS = (("5.23", "2.6"), ("5.18", "2.5"), ("5.6", "2.4"), ("4.56", "2.2"), ("4.52", "2.1"), ("4.48", "2.0"))


@rule("AD405", Severity.ERROR, explains=("AD5",))
def torch_too_old(environment: Environment, outcome: LoadOutcome | Missing) -> Iterator[Hit]:
    """The installed torch is older than the installed transformers asks for.

    ## Why it matters
    transformers then behaves as if torch were not there ("Disabling PyTorch"), and no model can be loaded.

    ## Common causes
    transformers was upgraded in an environment that pins torch, for a driver or another package.

    ## Fix
    Upgrade torch, or install a transformers release that still takes this one.
    """
    torch, transformers = environment.version("torch"), environment.version("transformers")
    if torch is None or transformers is None or isinstance(outcome, LoadOutcome):
        return  # a load that began has imported them all
    needed = next((minimum for first, minimum in _NEEDS if not is_older(transformers, first)), None)
    if needed is not None and is_older(torch, needed):
        last = next((first for first, minimum in reversed(_NEEDS) if is_older(torch, minimum)), _NEEDS[0][0])
        yield Hit(
            f"torch {torch} is installed, and transformers {transformers} expects {needed} or later",
            fix=f"pip install 'torch>={needed}', or: pip install 'transformers<{last}'",
        )
