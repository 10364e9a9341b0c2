"""AD813: checkpoint config ignored."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, Checkpoint, ResumePlan
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD813", Severity.WARNING)
def checkpoint_config_ignored(config: AdapterConfig, checkpoint: Checkpoint, plan: ResumePlan) -> Iterator[Hit]:
    """A resume takes the adapter's config from the code, and that differs from the checkpoint's.

    ## Why it matters
    `Trainer.train(resume_from_checkpoint=…)` loads the weights into the adapter that is there and never opens the
    checkpoint's `adapter_config.json`. Another `lora_alpha` scales the same weights differently, without a word.

    ## Common causes
    `lora_alpha`, `use_rslora`, dropout or targets were edited between the runs.

    ## Fix
    Make the model with the checkpoint's config: `PeftModel.from_pretrained(base, checkpoint, is_trainable=True)`.
    """
    others = [("the model in memory", plan.config)] if plan.config is not None else []
    others = others or [(name, raw) for name, raw in checkpoint.siblings.items()]
    for name, other in others:
        apart = [field for field in _COUNTED if _plain(config.get(field)) != _plain(other.get(field))]
        if apart:
            told = "; ".join(f"`{one}` is {config.get(one)!r} here, {other.get(one)!r} there" for one in apart[:4])
            yield Hit(f"the checkpoint's config differs from that of {name}: {told}", where="adapter_config.json")
            return


_COUNTED = (
    "peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "target_modules",
    "modules_to_save", "bias", "layers_to_transform", "lora_dropout",
)  # fmt: skip


def _plain(value: object) -> object:
    """What PEFT makes no difference between: the order of names, and nothing in its several forms."""
    if isinstance(value, (list, set, tuple)):
        return sorted(map(str, value)) or None
    return value or None
