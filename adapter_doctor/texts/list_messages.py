"""What a warning that lists tensor names means, where only one side is listed and nothing can be compared."""

from __future__ import annotations

from collections.abc import Iterable

from adapter_doctor.facts import Message
from adapter_doctor.findings import some
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.texts.state_dict_error import Listed
from adapter_doctor.texts.state_dict_reasons import is_head, reasons_for

_CHECK = (
    "run `adapter-doctor check BASE ADAPTER`: it compares these names with those in the file and names the rename, the"
    " layers or the setting that explains them"
)


def is_for_comparison(source: str, listed: Listed) -> bool:
    """Whether names and shapes are worth comparing: both sides are listed, and it was not a mere change of the head."""
    if any("*" in name for name in (*listed.missing, *listed.unexpected)):  # shortened by hand
        return False
    if source in ("torch", "trainer") or listed.clashes:
        return bool(listed.clashes)
    both = bool(listed.missing and listed.unexpected)
    heads = all(map(is_head, (*listed.missing, *listed.unexpected)))
    return both and not heads and not set(reasons_for(listed).reasons) <= {"head", "buffers"}


def messages_of(source: str, listed: Listed, line: int) -> Iterable[Message]:
    """The messages that a one-sided list amounts to."""
    ours = [name for name in listed.missing if _is_adapters(name)]
    theirs = [name for name in listed.unexpected if _is_adapters(name)]
    form = f"{source}-key-list"
    if ours:
        yield Message(
            form, "AD503", f"{len(ours)} places for adapter tensors got none and keep their initial values",
            _CHECK, line, _examples(ours),
        )  # fmt: skip
    if theirs:
        yield Message(
            form, "AD502", f"{len(theirs)} adapter tensors found no place in the model and were dropped",
            _CHECK, line, _examples(theirs),
        )  # fmt: skip
    if ours or theirs:
        return
    missing = [name for name in listed.missing if name not in listed.clashes]
    if source in ("torch", "trainer", "peft", "diffusers"):
        if listed.unexpected:
            yield Message(
                form, "AD912", f"{len(listed.unexpected)} tensors were not loaded: the model has no place for them",
                None, line, _examples(listed.unexpected),
            )  # fmt: skip
        elif missing:
            yield Message(
                form, "AD932", f"the {len(missing)} missing keys are the base's own weights, which are not in an adapter"
                " file; no adapter tensor is missing and none was left over", None, line, _examples(missing),
            )  # fmt: skip
    elif missing:
        yield Message(
            form, "AD310", f"{len(missing)} tensors of the model are not in its checkpoint and were made at random",
            "have the adapter bring them: name the head in `modules_to_save`, set `task_type`, train and save again; or"
            " load the base with the head that was trained", line, _examples(missing),
        )  # fmt: skip
    elif listed.unexpected:
        yield Message(
            form, "AD932", f"{len(listed.unexpected)} tensors of the base's checkpoint are not used by this class, as is"
            " usual for another task's head", None, line, _examples(listed.unexpected),
        )  # fmt: skip


def _is_adapters(name: str) -> bool:
    return parse(name) is not None or "lora_" in name


def _examples(names: Iterable[str]) -> str:
    return ", ".join(some(names))
