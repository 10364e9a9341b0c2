"""AD827: moments rounded."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import OptimizerState, TrainableParameters
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.formats.parameter_splits import paired
from adapter_doctor.rules import rule


@rule("AD827", Severity.WARNING)
def moments_rounded(state: OptimizerState, trainables: TrainableParameters) -> Iterator[Hit]:
    """The moments are kept in a narrower type than the parameters they go to, or the other way round.

    ## Why it matters
    `load_state_dict` casts every moment to its parameter's type. Second moments lose most of their digits in bf16, and
    come back as they are.

    ## Common causes
    A base loaded in another dtype, with `autocast_adapter_dtype=False`; a state converted to save space.

    ## Fix
    Load the base and the adapter in the dtype of the training.
    """
    if trainables.origin != "measured":
        return
    apart = [
        (one, kinds)
        for _, one, kept in paired(state, trainables)
        if kept is not None
        and parse(one.key) is not None  # a module saved whole has the dtype in which the base is loaded
        and (kinds := {info.dtype for name, info in kept.tensors.items() if name.startswith(_MOMENTS)} - {one.dtype})
        and kinds <= _FLOATS
    ]
    if apart:
        one, kinds = apart[0]
        yield Hit(
            f"the moments of {len(apart)} parameters are {', '.join(sorted(kinds))}, the parameters {one.dtype}",
            where=state.file,
            count=len(apart),
            examples=some(parameter.name for parameter, _ in apart),
        )


_MOMENTS = ("exp_avg", "momentum_buffer", "square_avg", "sum")
_FLOATS = {"F16", "BF16", "F32", "F64"}
