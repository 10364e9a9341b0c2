"""AD308: vocabulary mismatch."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Comparison
from adapter_doctor.findings import Hit, Severity, counted, some
from adapter_doctor.rules import rule


@rule(
    "AD308",
    Severity.ERROR,
    explains=("AD220", "AD304", "AD306", "AD501", "AD502", "AD503", "AD504", "AD803", "AD804", "AD805", "AD815"),
)
def vocabulary_mismatch(comparison: Comparison) -> Iterator[Hit]:
    """The adapter's embeddings have another number of rows than the base's.

    ## Why it matters
    PEFT raises "size mismatch"; only after the base has been resized in the same way do the tensors fit.

    ## Common causes
    Tokens were added in training and `resize_token_embeddings` was called on the base; padding to a multiple of 64.

    ## Fix
    Resize the base before loading the adapter, with the tokenizer that was saved beside it.
    """
    clashes = comparison.clashes.get("rows", ())
    if clashes:
        first = clashes[0]
        embedding = "lora_embedding" in first.key
        rows = first.in_file[1] if embedding else first.in_file[0]
        there = first.in_model[1] if embedding else first.in_model[0]
        yield Hit(
            f"{rows} rows in the adapter, {there} in the base, for {counted(len(clashes), 'tensor', 'tensors')}",
            count=len(clashes),
            examples=some(clash.key for clash in clashes),
            fix=f"call `base.resize_token_embeddings({rows})` before `PeftModel.from_pretrained`"
            + (f"; the base then loses its last {counted(there - rows, 'row', 'rows')}" if there > rows else ""),
        )
