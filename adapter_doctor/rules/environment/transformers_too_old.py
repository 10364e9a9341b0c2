"""AD402: transformers too old."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adapter_doctor import knowledge
from adapter_doctor.facts import BaseConfig, Environment, LoadOutcome, Missing
from adapter_doctor.findings import Hit, Severity, Undecided
from adapter_doctor.rules import rule

# transformers/models/auto/configuration_auto.py; the first releases of 4.x let the KeyError through.
_UNKNOWN = re.compile(r"has model type `([^`]+)` but Transformers does not recognize")


@rule("AD402", Severity.ERROR, explains=("AD3", "AD5"))
def transformers_too_old(
    base: BaseConfig, environment: Environment | Missing, outcome: LoadOutcome | Missing
) -> Iterator[Hit]:
    """The installed transformers does not know the base's model type.

    ## Why it matters
    Without the model's code nothing can be loaded: "Transformers does not recognize this architecture".

    ## Common causes
    The base is newer than the installed transformers.

    ## Fix
    Upgrade: `pip install -U transformers`; PEFT may have to follow.
    """
    if base.needs_remote_code or not base.model_type:
        return
    version = None if isinstance(environment, Missing) else environment.version("transformers")
    named = f"transformers {version}" if version else "transformers"
    if isinstance(outcome, LoadOutcome):
        unknown = _unknown_type(base, outcome)
        if unknown:
            newest = knowledge.transformers_version()
            known = knowledge.architecture(unknown) is not None
            yield Hit(
                f"{named} does not know the model type {unknown!r} of the base"
                + (f", expected a release that does, such as {newest}" if known else ", expected a release that does"),
                where="config.json",
            )
    elif knowledge.architecture(base.model_type) is None:
        raise Undecided(
            f"the model type {base.model_type!r} is not among those of transformers {knowledge.transformers_version()};"
            " a load would tell whether the installed one knows it"
        )


def _unknown_type(base: BaseConfig, outcome: LoadOutcome) -> str | None:
    """The model type that transformers says it does not know, which may be that of a part of the base."""
    refusal = outcome.refusal
    if refusal is None or not refusal.stage.startswith("base"):
        return None
    found = _UNKNOWN.search(refusal.message)
    if found:
        return found[1]
    bare = refusal.error == "KeyError" and refusal.message.strip("'\"") == base.model_type
    return base.model_type if bare else None
