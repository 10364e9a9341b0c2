"""AD209: empty tensors."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, AdapterTensors, Missing
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD209", Severity.ERROR, explains=("AD211", "AD212", "AD214", "AD215", "AD30", "AD31", "AD5"))
def empty_tensors(config: AdapterConfig | Missing, tensors: AdapterTensors) -> Iterator[Hit]:
    """Tensors have no elements.

    ## Why it matters
    The numbers are not in the file: under ZeRO-3 or FSDP each process held a part, and only placeholders were saved.

    ## Common causes
    `save_pretrained` under DeepSpeed ZeRO-3 or FSDP without gathering the parameters.

    ## Fix
    Save again from the checkpoint that holds the real weights (`global_step*/`, with `zero_to_fp32.py`), inside
    `deepspeed.zero.GatheredParameters` or with FSDP's full state dict.
    """
    if isinstance(config, AdapterConfig) and config.peft_type == "ADALORA":
        return  # a module that AdaLoRA pruned to rank 0 has empty tensors by right
    empty = [name for name, info in tensors.tensors.items() if info.count == 0]
    if empty:
        yield Hit(
            f"{len(empty)} of {len(tensors)} tensors have no elements, such as shape"
            f" {list(tensors.tensors[empty[0]].shape)}",
            where=tensors.file,
            count=len(empty),
            examples=some(empty),
        )
