"""AD914: state dict rank."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import StateDictMismatch
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD914", Severity.ERROR, explains=("AD909", "AD912"))
def state_dict_rank(mismatch: StateDictMismatch) -> Iterator[Hit]:
    """An adapter of the model's own making has another rank than in the state dict.

    ## Why it matters
    The layer was built with one rank and saved with another. torch refuses the tensor even with `strict=False`, and
    cutting or padding it is another adapter.

    ## Common causes
    The rank was changed in code or config after training; the checkpoint of another run.

    ## Fix
    Build the model with the rank of the checkpoint, as its own config says, and keep alpha / r as in training.
    """
    keys = mismatch.reasons.get("rank", ())
    if keys:
        first = mismatch.clash[keys[0]]
        there, wanted = next(pair for pair in zip(first.in_file, first.in_model, strict=True) if pair[0] != pair[1])
        yield Hit(
            f"{len(keys)} adapter tensors of rank {there} in the state dict, {wanted} in the model:"
            f" {list(first.in_file)} against {list(first.in_model)}",
            count=len(keys),
            examples=some(keys),
            fix=f"build the model with rank {there}, as the checkpoint's config says",
        )
