"""AD319: experts dropped."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterTensors, Comparison
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule(
    "AD319",
    Severity.ERROR,
    explains=("AD301", "AD302", "AD303", "AD304", "AD305", "AD5", "AD803", "AD804", "AD805", "AD815"),
    repairable=True,
)
def experts_dropped(comparison: Comparison, tensors: AdapterTensors) -> Iterator[Hit]:
    """LoRA tensors of a mixture-of-experts model find no place: this transformers fuses the experts.

    ## Why it matters
    transformers 5 stacks the experts into one parameter. PEFT carries per-expert LoRA over for some models only; for
    the others it drops the tensors without a word. Where it does carry them over, it moves `gate_proj` and the like to
    the experts altogether, and drops what was trained on dense layers and shared experts of the same names. For a few
    architectures its conversion even loses what it has just saved (peft 0.21.2: laguna, maskformer, mistral_large4).

    ## Common causes
    An adapter trained under transformers 4 on a mixture-of-experts model, or a PEFT older than 0.20.

    ## Fix
    Load it with the versions it was trained with: `pip install "transformers<5"`, and merge it there if need be. If it
    was trained with these, merge it in the session that trained it, or train without these layers (`exclude_modules`).
    """
    for reason, what in (
        ("experts", "are for single experts, which the base holds fused"),
        (
            "unconverted",
            "are for layers that PEFT converts for this architecture, as if to fused experts, and lose their place",
        ),
    ):
        keys = comparison.strays.get(reason, ())
        if keys and not comparison.of_another_size:
            yield Hit(
                f"{len(keys)} of {len(tensors)} tensors {what}",
                where=tensors.file,
                count=len(keys),
                examples=some(keys),
            )
