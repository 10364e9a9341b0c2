"""AD403: versions disagree."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor import knowledge
from adapter_doctor.facts import Environment, LoadOutcome, Missing
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.environment._versions import allows


@rule("AD403", Severity.ERROR, explains=("AD5",))
def versions_disagree(environment: Environment, outcome: LoadOutcome | Missing) -> Iterator[Hit]:
    """The installed PEFT and transformers do not work together.

    ## Why it matters
    PEFT sets no upper bound on transformers, so pip installs the pair without a word, and `import peft` fails.

    ## Common causes
    transformers was upgraded to 5 and PEFT was left behind.

    ## Fix
    Upgrade PEFT: `pip install -U peft`.
    """
    peft, transformers = environment.version("peft"), environment.version("transformers")
    if peft is None or transformers is None or isinstance(outcome, LoadOutcome):
        return  # a load that began has imported them all
    release = knowledge.release_at(peft)
    for one in knowledge.import_breaks():
        if release in one.peft and allows(one.transformers, transformers):
            newer = knowledge.releases()[knowledge.releases().index(one.peft[-1]) + 1]
            yield Hit(
                f"PEFT {peft} cannot be imported beside transformers {transformers} ({one.error}); expected PEFT {newer}"
                " or later",
                fix=f"pip install 'peft>={newer}'",
            )
