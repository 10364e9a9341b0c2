"""AD807: optimizer extra keys."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import OptimizerState
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD807", Severity.WARNING)
def optimizer_extra_keys(state: OptimizerState) -> Iterator[Hit]:
    """The optimizer's state has keys that no optimizer reads.

    ## Why it matters
    torch passes over them without a word. Beside moments of parameters that do not exist they hint at a state that was
    put together by hand or for another model.

    ## Common causes
    A whole training state saved under the optimizer's name; states of two optimizers merged; a renamed parameter.

    ## Fix
    Save what `optimizer.state_dict()` returns, no more. `load_state_dict` has no `strict` and needs none for this.
    """
    if state.extra:
        yield Hit(
            f"{len(state.extra)} beyond `state`, `param_groups` and what belongs to the groups' parameters",
            where=state.file,
            count=len(state.extra),
            examples=some(state.extra),
        )
