"""AD509: pass refused."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import LoadOutcome
from adapter_doctor.findings import Hit, Severity, Undecided
from adapter_doctor.rules import rule


@rule("AD509", Severity.ERROR, explains=("AD506", "AD507"))
def pass_refused(outcome: LoadOutcome) -> Iterator[Hit]:
    """The adapter loads, and the first forward pass with it raises or passes it by.

    ## Why it matters
    `PeftModel.from_pretrained` says nothing: every request fails, or the base model answers.

    ## Common causes
    A learnt prefix is keys and values for the base's cache, of the sizes in the adapter's config, and PEFT asks the base
    only in the forward pass: an architecture that takes no cache (DeBERTa, Mamba), one that keeps compressed keys
    (DeepSeek-V3) or states of its own (Qwen3-Next, Jamba), or other heads than PEFT reads off the config (Falcon, T5 with
    a `d_kv` of its own, a prefix that an old PEFT made for all heads of a grouped-query base). Or a target that is a
    Linear by its class alone, as the routers of Llama 4 and Phi-3.5-MoE, which `all-linear` takes along.

    ## Fix
    Use a base whose cache the prefix was made for, or train with LoRA or with a method that needs no cache, such as
    PROMPT_TUNING; where only the heads differ, train again with `num_attention_heads` and `token_dim` of the base's keys.
    Name the layers in `target_modules` without the one that is told, or put that into `exclude_modules`, and train again.
    """
    if outcome.pass_refused is None:
        raise Undecided("how this base keeps keys and values is not known here; `--load full --run` computes with them")
    if outcome.pass_refused:
        yield Hit(f"PEFT loads it, and the first forward pass cannot use it: {outcome.pass_refused}")
