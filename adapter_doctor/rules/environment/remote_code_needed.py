"""AD406: remote code needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adapter_doctor import knowledge
from adapter_doctor.facts import BaseConfig, BaseModules, LoadOutcome, Missing
from adapter_doctor.findings import Hit, Severity, Undecided, some
from adapter_doctor.rules import rule


@rule("AD406", Severity.ERROR, explains=("AD3", "AD402", "AD5"))
def remote_code_needed(
    base: BaseConfig, outcome: LoadOutcome | Missing, modules: BaseModules | Missing
) -> Iterator[Hit]:
    """The base's code lies in its own repository and was not trusted.

    ## Why it matters
    transformers has no code of its own for this model, and running that of the repository is a decision for you: it can
    do anything that you can. Nothing of it was executed.

    ## Common causes
    A model that was published before transformers supported it, or never was.

    ## Fix
    Read the files that `auto_map` in the base's config.json names; then pass `--trust-remote-code` here, and
    `trust_remote_code=True` where you load it.
    """
    if not base.needs_remote_code:
        return
    known = knowledge.architecture(base.model_type) is not None
    if isinstance(outcome, LoadOutcome):
        refusal = outcome.refusal
        refused = refusal is not None and "trust_remote_code" in refusal.message
    elif known or isinstance(modules, BaseModules):  # its checkpoint's names and shapes were enough
        return
    elif outcome.waived:
        refused = True
    else:
        raise Undecided(outcome.why)
    if refused:
        auto_map = base.raw.get("auto_map")
        names = auto_map.values() if isinstance(auto_map, Mapping) else ()
        named = f"the model type {base.model_type!r}" if base.model_type else "the base"
        yield Hit(
            f"{named} comes with code of its own, which was not run; expected"
            " `--trust-remote-code`, or a base that transformers has the code for",
            where="config.json",
            examples=some(str(name) for name in names),
        )
