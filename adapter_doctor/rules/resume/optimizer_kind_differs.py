"""AD806: optimizer kind differs."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import OptimizerState, ResumePlan
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.optimizer_kinds import called, kind_of_groups, kind_of_moments, same_moments
from adapter_doctor.rules import rule


@rule("AD806", Severity.ERROR, explains=("AD814", "AD823", "AD830"))
def optimizer_kind_differs(state: OptimizerState, plan: ResumePlan) -> Iterator[Hit]:
    """The state is another optimizer's than the one that training goes on with.

    ## Why it matters
    `load_state_dict` takes any optimizer's state, and its options in place of the new ones. The first step raises
    `KeyError: 'exp_avg'` and the like. Optimizers of bitsandbytes take each other's moments without a word where the names
    are the same, as Lion those of RMSprop, and train wrongly.

    ## Common causes
    `optim` was changed between the runs; an 8-bit or paged optimizer was swapped for torch's because bitsandbytes was
    missing.

    ## Fix
    Go on with the optimizer of the training. To change it is to begin anew: a warm start with a warm-up.
    """
    moments, groups = kind_of_moments(state), kind_of_groups(state)
    wanted = called(plan.optimizer) if "optimizer" in plan.told else None
    if moments is not None and wanted is not None and not same_moments(moments, wanted):
        yield Hit(
            f"the moments are those of {moments.name} ({', '.join(_keys(state))}), and `optim={plan.optimizer}` is"
            f" {wanted.name}" + (f" ({', '.join(sorted(wanted.needed))})" if wanted.needed else ""),
            where=state.file,
        )
    elif groups is not None and wanted is not None and wanted.options and not same_moments(groups, wanted):
        yield Hit(
            f"the groups have the options of {groups.name} ({', '.join(sorted(groups.options))}), and"
            f" `optim={plan.optimizer}` is {wanted.name}",
            where=state.file,
        )
    elif moments is not None and groups is not None and groups.needed and not same_moments(moments, groups):
        yield Hit(
            f"the moments are those of {moments.name} ({', '.join(_keys(state))}), and the groups have the options of"
            f" {groups.name}",
            where=state.file,
        )


def _keys(state: OptimizerState) -> list[str]:
    """What the first parameter with moments keeps."""
    return sorted(next((kept for kept in map(list, state.moments.values()) if kept), []))
