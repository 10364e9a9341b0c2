"""AD818: not an optimizer state."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Checkpoint, Missing, OptimizerState
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule


@rule("AD818", Severity.ERROR, explains=("AD803", "AD814", "AD823"))
def not_an_optimizer_state(checkpoint: Checkpoint, state: OptimizerState | Missing) -> Iterator[Hit]:
    """The optimizer's file holds something else than an optimizer's state.

    ## Why it matters
    `load_state_dict` raises `KeyError: 'param_groups'`.

    ## Common causes
    A whole training state (`{"model": …, "optimizer": …}`) under the optimizer's name; a model's weights.

    ## Fix
    Hand `load_state_dict` the optimizer's part, such as `torch.load(file, weights_only=True)["optimizer"]`.
    """
    file = checkpoint.state(checkpoint.optimizer)
    if file.state == "foreign":
        yield Hit(f"it has neither `state` nor `param_groups`; it {file.detail}", where=file.name)
    elif isinstance(state, OptimizerState) and state.absent:
        yield Hit(f"it has no `{'` and no `'.join(state.absent)}`", where=state.file)
    elif isinstance(state, OptimizerState) and state.inside and checkpoint.writer != "torch":
        yield Hit(
            f"the optimizer's state lies under `{state.inside}`, where the Trainer does not look",
            where=state.file,
            fix=f"save `torch.load({state.file!r}, weights_only=True)[{state.inside!r}]` as {state.file}",
        )
