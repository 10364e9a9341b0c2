"""AD506: output unchanged."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, BaseConfig, RunOutcome
from adapter_doctor.findings import Hit, Severity, Undecided
from adapter_doctor.rules import rule


@rule("AD506", Severity.ERROR)
def output_unchanged(run: RunOutcome, config: AdapterConfig, base: BaseConfig) -> Iterator[Hit]:
    """With the adapter on, the outputs are the base's.

    ## Why it matters
    The adapter has no effect.

    ## Common causes
    Tensors that did not land, updates that are zero, a prompt that is never used.

    ## Fix
    Cure the other findings; where there are none, compare the training's outputs with the adapter on and off.
    """
    if run.refusal is not None:
        raise Undecided(f"the forward pass raised {run.refusal.line}")
    rare = [
        name for name in ("token_indices", "trainable_token_indices", "alora_invocation_tokens") if config.get(name)
    ]
    if run.difference == 0 and (rare or isinstance(base.raw.get("vision_config"), dict)):
        raise Undecided("the inputs of the forward pass may not have reached what the adapter changes")
    if run.finite and run.difference == 0:
        yield Hit("the largest difference of the outputs with the adapter on and off is 0, expected more")
