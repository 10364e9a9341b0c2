"""All planners, in the order in which they are asked. A planner is a function from facts to the next step."""

from __future__ import annotations

from adapter_doctor.repair import contents, experts, foreign, layouts, losses, names, rotations, settings
from adapter_doctor.repair.plan import Planner

PLANNERS: tuple[Planner, ...] = (
    foreign.convert,
    names.unwrap_saved,
    names.unwrap,
    names.unwrap_twice,
    names.add_prefix,
    names.drop_adapter_name,
    names.rename_bone,
    names.move_modules,
    layouts.fuse,
    layouts.split,
    layouts.stack_experts,
    experts.turn_experts,
    rotations.turn_rotations,
    losses.zero_nan,
    losses.drop_layers,
    losses.drop_rows,
    settings.set_type,
    settings.set_switches,
    settings.cover_tensors,
    settings.set_ranks,
    contents.turn_factors,
    contents.save_modules,
    contents.drop_copies,
    settings.name_base,
    settings.fit_release,
)
"""What a tensor is called comes first, then what the config says of it; `drop_copies` and `fit_release` see the rest."""
