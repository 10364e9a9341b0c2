"""AD311: renamed modules."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, Comparison, Rename
from adapter_doctor.findings import Hit, Severity, listed, some
from adapter_doctor.formats.adapter_keys import PREFIX
from adapter_doctor.rules import rule


@rule(
    "AD311",
    Severity.ERROR,
    explains=(
        "AD212",
        "AD301",
        "AD302",
        "AD303",
        "AD304",
        "AD305",
        "AD307",
        "AD314",
        "AD317",
        "AD319",
        "AD5",
        "AD803",
        "AD804",
        "AD805",
        "AD815",
    ),
    repairable=True,
)
def renamed_modules(comparison: Comparison, tensors: AdapterTensors) -> Iterator[Hit]:
    """One rename of the modules makes the tensors fit.

    ## Why it matters
    The weights are right and their names are not: PEFT drops them without a word, and the base model answers.

    ## Common causes
    Trained on the bare model and loaded on the one with a head (one `model.` level more or less); a vision-language
    wrapper; module names that a new transformers release changed (4.52 and 5 did).

    ## Fix
    Rename the tensors as the message says, or load with `key_mapping=` in `PeftModel.from_pretrained`.
    """
    keys = comparison.strays.get("renamed", ())
    if keys and comparison.rename is not None:
        bare = not keys[0].startswith(PREFIX)
        put = f"; then put `{PREFIX}` in front of them" if bare else ""
        rivals = comparison.rename.rivals
        doubt = f"; {listed(rivals)} fits as well, and shapes do not tell which is meant" if rivals else ""
        how = "one rename" if not comparison.rename.more else "renames"
        yield Hit(
            f"{len(keys)} of {len(tensors)} tensors fit the base after {how} of their modules: {comparison.rename}{doubt}",
            where=tensors.file,
            count=len(keys),
            examples=some(keys),
            fix=f"rename the modules in the tensor names: {comparison.rename}{put}{_unchanged(comparison.rename)}",
        )


def _unchanged(rename: Rename) -> str:
    """How the adapter works as it is, where a library's release is the reason."""
    if rename.rivals:
        return "; look into the training's base for which of them it was"
    return (
        f"; or keep it as it is with `pip install '{rename.release}'`, which has these names" if rename.release else ""
    )
