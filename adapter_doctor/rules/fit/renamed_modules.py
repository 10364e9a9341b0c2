"""AD311: renamed modules."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, AdapterTensors, Comparison, Rename
from adapter_doctor.findings import Hit, Severity, listed, some
from adapter_doctor.formats.adapter_keys import PREFIX
from adapter_doctor.rules import rule
from adapter_doctor.rules.fit._remote_code import layouts, mends, reason, unchanged


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
def renamed_modules(comparison: Comparison, tensors: AdapterTensors, config: AdapterConfig) -> Iterator[Hit]:
    """One rename of the modules makes the tensors fit.

    ## Why it matters
    The weights are right and their names are not: PEFT drops them without a word, and the base model answers.

    ## Common causes
    Trained on the bare model and loaded on the one with a head (one `model.` level more or less); a vision-language
    wrapper; module names that a new transformers release changed (4.52 and 5 did); a model whose code lay in its own
    repository (`trust_remote_code=True`) when the adapter was trained, and which transformers has a class for today:
    Phi-1 to -2, GLM-4, OLMo, Florence-2, InternVL, Ovis2, Nemotron-H, nomic-embed, GTE and others.

    ## Fix
    Rename the tensors as the message says, or load with `key_mapping=` in `PeftModel.from_pretrained`. Where a library's
    release or remote code is the reason, the message says with which versions the adapter works as it is.
    """
    keys = comparison.strays.get("renamed", ())
    if keys and comparison.rename is not None and comparison.remote is not None:
        remote, fused = comparison.remote, comparison.strays.get("fused", ())
        can = not fused or mends(config, apart=remote.in_adapter)
        more = ""
        if fused:
            more = f", {len(fused)} are for layers that are fused in the one and split in the other ({layouts(remote)})"
        do = "give the tensors the names of this base, as `adapter-doctor fix` does; " if can else ""
        yield Hit(
            f"{len(keys) + len(fused)} of {len(tensors)} tensors have {reason(remote)}: "
            f"{len(keys)} fit after a rename, {comparison.rename}{more}",
            where=tensors.file,
            count=len(keys) + len(fused),
            examples=some((*keys, *fused)),
            fix=f"{do}{unchanged(remote) if can else unchanged(remote).removeprefix('or ')}",
            repairable=can,
        )
    elif keys and comparison.rename is not None:
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
