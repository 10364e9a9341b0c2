"""AD010: not an adapter."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterFolder
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD010", Severity.ERROR, explains=("AD101", "AD201"))
def not_an_adapter(adapter: AdapterFolder) -> Iterator[Hit]:
    """The folder holds a whole model, not an adapter.

    ## Why it matters
    A merged or fully fine-tuned model needs no base: it is loaded by itself.

    ## Common causes
    `merge_and_unload()` before `save_pretrained`, or full fine-tuning without PEFT.

    ## Fix
    Load it with `AutoModelForCausalLM.from_pretrained` (or the class of its task); there is no adapter to apply.
    """
    weights = [name for name in adapter.files if name.startswith(("model", "pytorch_model")) and "." in name]
    if adapter.exists and "config.json" in adapter.files and weights and "adapter_config.json" not in adapter.files:
        yield Hit(
            f"{adapter.reference!r} holds config.json and {weights[0]} but no adapter_config.json: a whole model",
            where=adapter.reference,
            examples=some(sorted(weights)),
        )
