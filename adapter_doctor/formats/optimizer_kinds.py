"""What each optimizer keeps of a parameter and writes into its groups, so that a state tells whose it is.

Seen in checkpoints that transformers' Trainer 5.23 made with torch 2.13, bitsandbytes 0.50.2, schedulefree 1.4.1,
lion-pytorch 0.2.5, torchao 0.18, prodigyopt 1.1.2, came-pytorch 0.1.3 and PEFT 0.21.2's LoRA-FA.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from adapter_doctor.facts import Moments, OptimizerState, Shape


@dataclass(frozen=True, slots=True)
class Kind:
    """One optimizer: its name, the Trainer's names for it, what it keeps of each parameter, and what marks its groups.

    ``needed`` must be there at the first step after a resume, ``more`` may be; ``options`` are group options that no
    other kind has all of. An optimizer whose ``needed`` is empty starts afresh from nothing and loses nothing.
    """

    name: str
    called: frozenset[str]
    needed: frozenset[str]
    options: frozenset[str]
    more: frozenset[str] = frozenset()


def _kind(name: str, called: str, needed: str, options: str, more: str = "") -> Kind:
    words = (frozenset(one.split()) for one in (called, needed, options, more))
    return Kind(name, *words)


_BLOCKS = "qmap1 absmax1 qmap2 absmax2 unorm_vec"
_BITSANDBYTES = "t_alpha t_beta3"
KINDS = (
    _kind("AdamW", "adamw_torch adamw_torch_fused adamw_torch_xla adamw_torch_npu_fused adamw_hf",
          "step exp_avg exp_avg_sq", "betas amsgrad maximize", "max_exp_avg_sq"),
    _kind("Adafactor", "adafactor", "step RMS", "clip_threshold scale_parameter relative_step",
          "exp_avg exp_avg_sq exp_avg_sq_row exp_avg_sq_col"),
    _kind("torch's Adafactor", "", "", "beta2_decay", "step row_var col_var variance"),
    _kind("SGD", "sgd", "", "momentum dampening nesterov", "momentum_buffer"),
    _kind("RMSprop", "rmsprop", "step square_avg", "alpha centered", "momentum_buffer grad_avg"),
    _kind("Adagrad", "adagrad", "step sum", "lr_decay initial_accumulator_value"),
    _kind("8-bit AdamW of bitsandbytes", "adamw_bnb_8bit adamw_8bit paged_adamw_8bit",
          "step state1 state2", _BITSANDBYTES, _BLOCKS),
    _kind("32-bit AdamW of bitsandbytes", "paged_adamw_32bit", "step state1 state2", _BITSANDBYTES, _BLOCKS),
    _kind("AdEMAMix of bitsandbytes", "ademamix ademamix_8bit paged_ademamix_32bit paged_ademamix_8bit",
          "step state1 state2", _BITSANDBYTES, _BLOCKS),
    _kind("Lion of bitsandbytes", "lion_32bit lion_8bit paged_lion_32bit paged_lion_8bit", "step state1", "", _BLOCKS),
    _kind("RMSprop of bitsandbytes", "rmsprop_bnb rmsprop_bnb_8bit rmsprop_bnb_32bit", "step state1", "", _BLOCKS),
    _kind("schedule-free AdamW", "schedule_free_adamw", "z exp_avg_sq", "weight_sum betas warmup_steps"),
    _kind("schedule-free RAdam", "schedule_free_radam", "z exp_avg_sq", "weight_sum betas silent_sgd_phase"),
    _kind("schedule-free SGD", "schedule_free_sgd", "z", "weight_sum momentum"),
    _kind("Lion", "", "exp_avg", ""),
    _kind("low-bit AdamW of torchao", "adamw_torch_4bit adamw_torch_8bit", "step exp_avg exp_avg_sq", "betas amsgrad",
          "max_exp_avg_sq"),
    _kind("Prodigy", "", "step s p0 exp_avg exp_avg_sq", "d d0 d_coef"),
    _kind("CAME", "", "step RMS exp_avg", "clip_threshold betas",
          "exp_avg_sq exp_avg_sq_row exp_avg_sq_col exp_avg_res_row exp_avg_res_col"),
)  # fmt: skip


def called(name: str | None) -> Kind | None:
    """The kind that the Trainer's `optim` names; None for one that is not known here."""
    return next((kind for kind in KINDS if name in kind.called), None) if name else None


def kind_of_moments(state: OptimizerState) -> Kind | None:
    """The kind whose moments these are, by the keys that most parameters have; None where they have others as well."""
    keys = Counter(frozenset(one) for one in state.moments.values() if any(True for _ in one))
    if not keys:
        return None
    ((most, _),) = keys.most_common(1)
    groups = kind_of_groups(state)
    if groups is not None and groups.needed and most <= groups.needed:  # less than it needs is still its own
        return groups
    if "state1" in most:
        return _of_bitsandbytes(state, most)
    fitting = [kind for kind in KINDS if most <= kind.needed | kind.more and (kind.needed or kind.more & most)]
    whole = [kind for kind in fitting if kind.needed <= most]  # what lacks some may be of an optimizer not known here
    if groups in whole:
        return groups
    return max(whole, key=lambda kind: len(kind.needed & most), default=None)


def _of_bitsandbytes(state: OptimizerState, most: frozenset[str]) -> Kind | None:
    """AdamW or AdEMAMix, which keeps two first moments in one tensor; Lion or RMSprop, whose second beta is 0."""
    if "state2" in most:
        ranks = [
            [len(kept.tensors[name].shape) for name in ("state1", "state2")]
            for kept in state.moments.values()
            if {"state1", "state2"} <= set(kept.tensors)
        ]
        if any(first > second for first, second in ranks):
            return _named("AdEMAMix of bitsandbytes")
        blocks = any("absmax1" in kept.tensors for kept in state.moments.values())
        return _named(f"{'8-bit' if blocks else '32-bit'} AdamW of bitsandbytes")
    options = state.groups[0].options if state.groups else {}
    betas = options.get("betas")
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        return None
    if betas[1]:
        return _named("Lion of bitsandbytes")
    return _named("RMSprop of bitsandbytes") if betas[0] and options.get("eps") else None


def kind_of_groups(state: OptimizerState) -> Kind | None:
    """The kind that the groups' options belong to, where they tell."""
    if not state.groups:
        return None
    options = state.groups[0].options
    fitting = [kind for kind in KINDS if kind.options and kind.options <= set(options)]
    if any(kind.options == frozenset(_BITSANDBYTES.split()) for kind in fitting):
        betas = options.get("betas")
        three = isinstance(betas, list | tuple) and len(betas) == 3
        return _named("AdEMAMix of bitsandbytes" if three else "32-bit AdamW of bitsandbytes")
    return max(fitting, key=lambda kind: len(kind.options), default=None)


def due(kind: Kind, kept: Moments) -> frozenset[str]:
    """What the kind's next step reads of this parameter's moments; of those in 8 bits also their blocks' scales."""
    blocks = {f"{part}{number}" for number in "12" if _in_8_bits(kept, f"state{number}") for part in ("qmap", "absmax")}
    return kind.needed | blocks


def _in_8_bits(kept: Moments, name: str) -> bool:
    return name in kept.tensors and kept.tensors[name].dtype == "U8"


def _named(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


_ALIKE = frozenset({"8-bit AdamW of bitsandbytes", "32-bit AdamW of bitsandbytes"})


def same_moments(one: Kind, other: Kind) -> bool:
    """Whether the one's moments can be gone on with by the other. AdamW of bitsandbytes takes those of any of its bits."""
    return one is other or {one.name, other.name} <= _ALIKE


def shape_of(moments: Moments) -> Shape | None:
    """The shape of the parameter whose moments these are; None where they do not tell."""
    tensors = moments.tensors
    for row, column in (("exp_avg_sq_row", "exp_avg_sq_col"), ("row_var", "col_var")):
        if row in tensors and column in tensors:
            rows, columns = tensors[row].shape, tensors[column].shape
            if row == "row_var":  # torch keeps the reduced dimension as 1
                return (*rows[:-1], columns[-1]) if rows and columns else None
            return (*rows, columns[-1]) if columns else None
    # AdEMAMix has two moments in its state1, and one in its state2.
    for name in ("exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg", "sum", "state2", "state1", "z", "variance"):
        if name in tensors:
            return tensors[name].shape
    return None
