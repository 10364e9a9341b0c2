"""AD607: rows were added, and no tokenizer tells what they mean."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, BaseConfig, UploadContents
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule

_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@rule("AD607", Severity.WARNING)
def tokenizer_missing(tensors: AdapterTensors, base: BaseConfig, contents: UploadContents) -> Iterator[Hit]:
    """Rows were added to the vocabulary, but no tokenizer lies beside the weights.

    ## Why it matters
    The base's tokenizer does not know the added tokens: it splits them, the new rows are never used, and the adapter
    answers as if it had not been trained on them.

    ## Common causes
    `model.save_pretrained` without `tokenizer.save_pretrained` into the same folder.

    ## Fix
    Save the tokenizer into the folder: `tokenizer.save_pretrained(FOLDER)`.
    """
    rows = base.number("vocab_size")
    more = {
        name: shape[0]
        for name, shape in tensors.shapes.items()
        if name.endswith(("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "lm_head.weight"))
        and len(shape) == 2
        and rows is not None
        and shape[0] > rows
    }
    if more and not any(name in contents.files for name in _TOKENIZERS):
        name, count = next(iter(sorted(more.items())))
        yield Hit(
            f"the vocabulary has {count:,} rows, {count - (rows or 0):,} more than the base's {rows:,}, and there is no tokenizer",
            examples=(name,),
        )
