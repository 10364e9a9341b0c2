"""AD823: state incomplete."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import OptimizerState
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.optimizer_kinds import due, kind_of_groups, kind_of_moments
from adapter_doctor.rules import rule


@rule("AD823", Severity.ERROR)
def state_incomplete(state: OptimizerState) -> Iterator[Hit]:
    """Moments or groups lack what their optimizer needs.

    ## Why it matters
    The load passes; the first step raises `KeyError: 'exp_avg_sq'`, `'betas'` and the like. Schedule-free optimizers begin
    such a parameter anew instead, without a word.

    ## Common causes
    A state that was filtered, merged or converted by hand.

    ## Fix
    Use the optimizer's file as the training saved it.
    """
    kind = kind_of_moments(state) or kind_of_groups(state)
    lacking = (
        {key: sorted(due(kind, kept) - set(kept)) for key, kept in state.moments.items() if any(True for _ in kept)}
        if kind
        else {}
    )
    lacking = {key: names for key, names in lacking.items() if names}
    if lacking:
        key, names = next(iter(lacking.items()))
        yield Hit(
            f"{len(lacking)} of {len(state.moments)} parameters have moments without `{'`, `'.join(names)}`",
            where=state.file, count=len(lacking), examples=(f"state[{key!r}]",),
        )  # fmt: skip
    rates = [number for number, group in enumerate(state.groups) if group.options and "lr" not in group.options]
    if rates:
        yield Hit(f"{len(rates)} of {len(state.groups)} groups have no `lr`", where=state.file, count=len(rates))
    elif kind is not None and kind_of_groups(state) is None and kind.options and kind.needed:
        options = set(state.groups[0].options) if state.groups else set()
        absent = sorted(kind.options - options - _GIVEN) if options else []
        if absent:
            yield Hit(f"the groups have no `{'`, `'.join(absent)}`, which {kind.name} reads", where=state.file)


_GIVEN = frozenset({"amsgrad", "maximize", "t_alpha", "t_beta3"})
"""Options that torch's and bitsandbytes' optimizers take as their defaults where a state lacks them."""
