"""AD221: odd dtype."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.rules import rule

_USUAL = ("F32", "F16", "BF16")


@rule("AD221", Severity.WARNING)
def odd_dtype(tensors: AdapterTensors) -> Iterator[Hit]:
    """Tensors are stored in an unusual number format.

    ## Why it matters
    PEFT casts them by value without a word: integers and 8-bit floats have lost precision, and some servers refuse them.

    ## Common causes
    A quantised export, `model.double()`, a conversion script.

    ## Fix
    Save the adapter in float32, bfloat16 or float16, from the weights as they were trained.
    """
    odd = {
        name: info.dtype for name, info in tensors.tensors.items()
        if info.dtype not in _USUAL and parse(name) is not None
        and not any(part in name for part in ("indices", "_size", "logits"))
    }  # fmt: skip
    if odd:
        kinds = ", ".join(f"{count} {dtype}" for dtype, count in Counter(odd.values()).most_common())
        yield Hit(f"{len(odd)} of {len(tensors)} tensors are {kinds}, expected F32, F16 or BF16", where=tensors.file,
                  count=len(odd), examples=some(odd))  # fmt: skip
