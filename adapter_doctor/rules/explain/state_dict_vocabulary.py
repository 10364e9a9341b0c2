"""AD907: state dict vocabulary."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import StateDictMismatch
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD907", Severity.ERROR)
def state_dict_vocabulary(mismatch: StateDictMismatch) -> Iterator[Hit]:
    """The embeddings have another number of rows than the model's.

    ## Why it matters
    torch refuses another shape even with `strict=False`; `ignore_mismatched_sizes` would make the embedding random.

    ## Common causes
    Tokens were added before the checkpoint was saved; a vocabulary padded to a multiple of 64.

    ## Fix
    Resize the model before loading: `model.resize_token_embeddings(rows)`, with the tokenizer of the checkpoint.
    """
    keys = mismatch.reasons.get("rows", ())
    if keys:
        first = mismatch.clash[keys[0]]
        yield Hit(
            f"{first.in_file[0]} rows in the state dict, {first.in_model[0]} in the model, for {len(keys)} tensors",
            count=len(keys),
            examples=some(keys),
            fix=f"call `model.resize_token_embeddings({first.in_file[0]})` before the load",
        )
