"""AD315: same shape other base."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, BaseFolder, Fit
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.base_names import is_local_path, same_base
from adapter_doctor.rules import rule


@rule("AD315", Severity.WARNING, explains=("AD112",))
def same_shape_other_base(config: AdapterConfig, fit: Fit, base: BaseFolder) -> Iterator[Hit]:
    """Everything fits, but the adapter names another base.

    ## Why it matters
    A base of the same shape with other weights (another fine-tune, another release) takes the adapter without a word and
    answers worse. Shapes cannot tell them apart.

    ## Common causes
    A sibling of the base was given (base for instruct), or the training ran from a local copy.

    ## Fix
    Use the base that the adapter names, unless you know that both hold the same weights.
    """
    whole = fit.places and not (fit.strays or fit.vacant or fit.clashes or fit.refusal)
    if whole and base.given and config.base_name and not same_base(config.base_name, base.reference):
        kind = "a path of another machine" if is_local_path(config.base_name) else "another base"
        yield Hit(f"the adapter names {config.base_name!r} ({kind}), and was given {base.reference!r}",
                  where="adapter_config.json")  # fmt: skip
