"""AD913: strict false would hide."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import StateDictMismatch
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD913", Severity.NOTE)
def strict_false_would_hide(mismatch: StateDictMismatch) -> Iterator[Hit]:
    """What `strict=False` would do to this load, in numbers.

    ## Why it matters
    It is the usual advice for this error, and it only silences it: missing tensors stay random, unexpected ones are
    dropped, other shapes raise all the same.

    ## Common causes
    Advice found on the web.

    ## Fix
    Mend the cause that stands above; if a partial load is meant, compare the returned missing keys with what you
    expect.
    """
    missing = [key for key in mismatch.missing if key not in mismatch.clash]
    if missing or mismatch.unexpected:
        more = "at least " if mismatch.cut else ""
        raises = f", and raise all the same for {len(mismatch.clashes)} other shapes" if mismatch.clashes else ""
        yield Hit(
            f"`strict=False` would leave {more}{len(missing)} of the model's tensors at random and drop"
            f" {len(mismatch.unexpected)} of the state dict's{raises}",
            count=len(missing) + len(mismatch.unexpected),
            examples=some((*missing, *mismatch.unexpected)),
        )
