"""AD213: not finite."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, TensorValues
from adapter_doctor.findings import Hit, Severity, Undecided, some
from adapter_doctor.rules import rule


@rule("AD213", Severity.ERROR, explains=("AD214", "AD215", "AD507"))
def not_finite(tensors: AdapterTensors, values: TensorValues) -> Iterator[Hit]:
    """Tensors hold NaN or infinity.

    ## Why it matters
    PEFT loads them without a word. One NaN makes every output NaN; an infinity may hide behind attention for a while.

    ## Common causes
    Training in float16 without loss scaling, a learning rate that made the loss diverge, a damaged file.

    ## Fix
    Take an earlier checkpoint in which the loss was finite; train in bfloat16 or with a lower learning rate. Setting the
    values to zero loses what those modules had learnt.
    """
    bad = {name: one for name, one in values.summaries.items() if one.nan or one.infinite}
    if bad:
        nan, infinite = sum(one.nan for one in bad.values()), sum(one.infinite for one in bad.values())
        yield Hit(
            f"{nan:,} NaN and {infinite:,} infinite values in {len(bad)} of {len(values.summaries)} tensors",
            count=len(bad),
            examples=some(f"{name}: {one.nan} NaN, {one.infinite} infinite" for name, one in bad.items()),
        )
    unread = len(set(tensors) - set(values.summaries))
    if unread:
        raise Undecided(f"the values of {unread} tensors lie in the file in a way that was not read")
