"""AD901: prefix in state dict."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import StateDictMismatch
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule
from adapter_doctor.rules.explain._renaming import rename_code


@rule("AD901", Severity.ERROR, explains=("AD906", "AD907", "AD908", "AD909", "AD911", "AD912"))
def prefix_in_state_dict(mismatch: StateDictMismatch) -> Iterator[Hit]:
    """One prefix more or less makes the names of the state dict those of the model.

    ## Why it matters
    The weights are right and their names are not. With `strict=False` none of them would land: the model would stay as
    it was made.

    ## Common causes
    Saved from a model inside `DistributedDataParallel` or `DataParallel` (`module.`), `torch.compile` (`_orig_mod.`) or
    a class that holds the model as an attribute (`model.`), and loaded into the model itself; or the other way round.

    ## Fix
    Rename the keys as the message says; next time save `model.module.state_dict()` or `model._orig_mod.state_dict()`.
    """
    keys = mismatch.reasons.get("prefix", ())
    if keys and mismatch.rename is not None:
        rename = mismatch.rename
        yield Hit(
            f"{len(keys)} of {len(mismatch.unexpected)} unexpected keys are the model's own after one change of their names:"
            f" {rename}",
            count=len(keys),
            examples=some(keys),
            fix=f"load it with {rename_code(rename)}",
        )
