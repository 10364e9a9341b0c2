"""AD902: not a state dict."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import StateDictMismatch
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.training_checkpoint import MODEL_ENTRIES
from adapter_doctor.rules import rule


@rule("AD902", Severity.ERROR, explains=("AD906", "AD907", "AD908", "AD909", "AD911", "AD912"))
def not_a_state_dict(mismatch: StateDictMismatch) -> Iterator[Hit]:
    """A whole training checkpoint or an optimizer's state was passed as the model's state dict.

    ## Why it matters
    Not one key is the name of a tensor of the model. `strict=False` would accept it and load nothing.

    ## Common causes
    `torch.save({'model': model.state_dict(), 'optimizer': …})` and then `model.load_state_dict(torch.load(path))`;
    `optimizer.pt` taken for the model's file.

    ## Fix
    Pass the entry that holds the model's tensors, such as `checkpoint["model"]`.
    """
    keys = mismatch.reasons.get("checkpoint", ())
    if keys:
        inner = next((key for key in MODEL_ENTRIES if key in keys), None)
        cure = f'call `model.load_state_dict(checkpoint["{inner}"])`'
        yield Hit(
            f"the keys are those of a training checkpoint ({', '.join(keys[:6])}), not of the model's tensors",
            count=len(keys),
            examples=some(keys),
            fix=cure if inner else "look into the checkpoint for the entry that holds tensors, and pass that one",
        )
    keys = mismatch.reasons.get("optimizer", ())
    if keys:
        yield Hit(
            f"the keys ({', '.join(keys)}) are those of an optimizer's state dict, not of the model's tensors",
            count=len(keys),
            fix="pass this file to `optimizer.load_state_dict`, and the model's own file to the model",
        )
