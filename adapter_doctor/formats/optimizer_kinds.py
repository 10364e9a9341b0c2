"""What each optimizer keeps of a parameter and writes into its groups, so that a state tells whose it is.

Read off the optimizers' own source: torch.optim 2.13, transformers.optimization 5.23, bitsandbytes.optim, schedulefree,
lion-pytorch, torchao.optim.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from adapter_doctor.facts import Moments, OptimizerState, Shape


@dataclass(frozen=True, slots=True)
class Kind:
    """One optimizer: its name, the Trainer's names for it, what it keeps of each parameter, and what marks its groups.

    ``needed`` must be there at the first step after a resume; ``options`` are group options that no other kind has all
    of. An optimizer whose ``needed`` is empty starts afresh from nothing and loses nothing.
    """

    name: str
    called: frozenset[str]
    needed: frozenset[str]
    options: frozenset[str]


def _kind(name: str, called: str, needed: str, options: str) -> Kind:
    return Kind(name, frozenset(called.split()), frozenset(needed.split()), frozenset(options.split()))


KINDS = (
    _kind("AdamW", "adamw_torch adamw_torch_fused adamw_torch_xla adamw_torch_npu_fused adamw_hf",
          "step exp_avg exp_avg_sq", "betas amsgrad"),
    _kind("Adafactor", "adafactor", "step RMS", "clip_threshold scale_parameter relative_step"),
    _kind("torch's Adafactor", "", "", "beta2_decay"),
    _kind("SGD", "sgd", "", "momentum dampening nesterov"),
    _kind("RMSprop", "rmsprop", "step square_avg", "alpha centered"),
    _kind("Adagrad", "adagrad", "step sum", "lr_decay initial_accumulator_value"),
    _kind("8-bit AdamW of bitsandbytes", "adamw_bnb_8bit adamw_8bit paged_adamw_8bit", "step state1 state2", ""),
    _kind("32-bit AdamW of bitsandbytes", "paged_adamw_32bit", "step state1 state2", ""),
    _kind("AdEMAMix of bitsandbytes", "ademamix ademamix_8bit paged_ademamix_32bit paged_ademamix_8bit",
          "step state1 state2", ""),
    _kind("Lion of bitsandbytes", "lion_32bit lion_8bit paged_lion_32bit paged_lion_8bit", "step state1", ""),
    _kind("RMSprop of bitsandbytes", "rmsprop_bnb rmsprop_bnb_8bit rmsprop_bnb_32bit", "step state1", ""),
    _kind("schedule-free AdamW", "schedule_free_adamw schedule_free_radam", "z exp_avg_sq", "weight_sum betas"),
    _kind("schedule-free SGD", "schedule_free_sgd", "z", "weight_sum momentum"),
    _kind("Lion", "", "exp_avg", ""),
    _kind("low-bit AdamW of torchao", "adamw_torch_4bit adamw_torch_8bit", "step exp_avg exp_avg_sq", ""),
)  # fmt: skip


def called(name: str | None) -> Kind | None:
    """The kind that the Trainer's `optim` names; None for one that is not known here."""
    return next((kind for kind in KINDS if name in kind.called), None) if name else None


def kind_of_moments(state: OptimizerState) -> Kind | None:
    """The kind whose moments these are, by the keys that most parameters have."""
    keys = Counter(frozenset(one) for one in state.moments.values() if any(True for _ in one))
    if not keys:
        return None
    ((most, _),) = keys.most_common(1)
    groups = kind_of_groups(state)
    if groups is not None and groups.needed and most <= groups.needed:  # less than it needs is still its own
        return groups
    if {"exp_avg_sq_row", "exp_avg_sq_col"} <= most or ("RMS" in most and "exp_avg_sq" in most):
        return _named("Adafactor")
    if {"row_var", "col_var"} <= most or "variance" in most:
        return _named("torch's Adafactor")
    if "momentum_buffer" in most and "square_avg" not in most:
        return _named("SGD")
    if {"state1", "state2"} <= most:
        return _named("8-bit AdamW of bitsandbytes" if "absmax1" in most else "32-bit AdamW of bitsandbytes")
    fitting = [kind for kind in KINDS if kind.needed and kind.needed <= most]
    return max(fitting, key=lambda kind: len(kind.needed), default=None)


def kind_of_groups(state: OptimizerState) -> Kind | None:
    """The kind that the groups' options belong to, where they tell."""
    if not state.groups:
        return None
    options = set(state.groups[0].options)
    fitting = [kind for kind in KINDS if kind.options and kind.options <= options]
    return max(fitting, key=lambda kind: len(kind.options), default=None)


def _named(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


def same_moments(one: Kind, other: Kind) -> bool:
    """Whether the one's moments can be gone on with by the other: both keep the same things under the same names."""
    family = "bitsandbytes"
    return one is other or (one.needed == other.needed and (family in one.name) == (family in other.name))


def shape_of(moments: Moments) -> Shape | None:
    """The shape of the parameter whose moments these are; None where they do not tell."""
    tensors = moments.tensors
    for row, column in (("exp_avg_sq_row", "exp_avg_sq_col"), ("row_var", "col_var")):
        if row in tensors and column in tensors:
            rows, columns = tensors[row].shape, tensors[column].shape
            if row == "row_var":  # torch keeps the reduced dimension as 1
                return (*rows[:-1], columns[-1]) if rows and columns else None
            return (*rows, columns[-1]) if columns else None
    for name in ("exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg", "sum", "state1", "z", "variance"):
        if name in tensors:
            return tensors[name].shape
    return None
