"""A rename of state dict keys as a line of Python."""

from __future__ import annotations

from adapter_doctor.facts import Rename


def rename_code(rename: Rename) -> str:
    """The call that loads a state dict under the names that the rewrite gives."""
    old, new = f"{rename.old}." if rename.old else "", f"{rename.new}." if rename.new else ""
    if not old:
        renamed = f"{new!r} + key"
    elif rename.front and not new:
        renamed = f"key.removeprefix({old!r})"
    else:
        renamed = f"key.replace({old!r}, {new!r}{', 1' if rename.front else ''})"
    return f"`model.load_state_dict({{{renamed}: tensor for key, tensor in state_dict.items()}})`"
