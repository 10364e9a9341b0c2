"""AD224: old layout."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, AdapterTensors, Comparison, Missing
from adapter_doctor.findings import Hit, Severity, counted, some
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.rules import rule


@rule(
    "AD224",
    Severity.ERROR,
    explains=("AD107", "AD211", "AD212", "AD303", "AD304", "AD305", "AD306", "AD5"),
    repairable=True,
)
def old_layout(config: AdapterConfig, tensors: AdapterTensors, comparison: Comparison | Missing) -> Iterator[Hit]:
    """The tensors are in the layout of an older PEFT release.

    ## Why it matters
    The method was rewritten since; its old tensors are dropped or refused.

    ## Common causes
    OFT before 0.16 (`oft_r`; up to 0.13 it was another method by the same name), BONE before 0.19 (`bone_block`), LoRA
    on parameters (`target_parameters`) saved by 0.17.0 to 0.19.0.

    ## Fix
    Load the adapter with the release that wrote it, merge it there, or convert its tensors.
    """
    parameters = {one.parameter for name in tensors if (one := parse(name)) is not None}
    if config.peft_type == "OFT" and {"oft_r", "oft_s"} <= parameters:
        can = not config.get("coft") and config.get("bias") in (None, "none")
        yield Hit(
            "`oft_r` and `oft_s` tensors, as PEFT 0.14 and 0.15 wrote them; since 0.16 the method stores `oft_R.weight` and"
            " has no scale",
            where=tensors.file,
            count=len(tensors),
            fix=("make it BOFT with one butterfly factor, which computes the same, as `adapter-doctor fix` does; or " if can else "")
            + "load it with `pip install 'peft==0.15.2' 'transformers==4.51.3'` and merge it there",
            repairable=can,
        )  # fmt: skip
    elif config.peft_type == "OFT" and "oft_r" in parameters:
        yield Hit(
            "`oft_r` tensors, as PEFT 0.7 to 0.13 wrote them: it rotated what a layer gives; since 0.14 OFT rotates what a"
            " layer takes, which is another update",
            where=tensors.file,
            count=len(tensors),
            fix="load it with `pip install 'peft==0.13.2' 'transformers==4.46.3'`, and merge it there to use it with a newer PEFT",
            repairable=False,
        )
    if config.peft_type != "BONE" and "bone_block" in parameters:
        yield Hit("`bone_block` tensors, as PEFT 0.14 to 0.18 wrote them; now the method is MISS with `miss_block`",
                  where=tensors.file, count=len(tensors), fix="set `peft_type` to MISS and rename `bone_block` to `miss_block`")  # fmt: skip
    flipped = comparison.clashes.get("layout", ()) if isinstance(comparison, Comparison) else ()
    experts = [clash for clash in flipped if (one := parse(clash.key)) and one.parameter in ("lora_A", "lora_B")]
    if experts and config.get("target_parameters"):
        first = experts[0]
        yield Hit(
            f"{counted(len(experts), 'tensor of LoRA on parameters has', 'tensors of LoRA on parameters have')} in and out swapped: {list(first.in_file)} in the file,"
            f" {list(first.in_model)} in the model",
            where=tensors.file,
            count=len(experts),
            examples=some(clash.key for clash in experts),
            fix="exchange the factors expert by expert: PEFT 0.17.0 to 0.19.0 stored them the other way round",
        )
