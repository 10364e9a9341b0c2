"""What a text tells, as facts: its known messages, the state dict it complains of, and an adapter's side and a base's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapter_doctor.facts import Facts, Message, Messages, StateDictMismatch
from adapter_doctor.texts import forms, key_lists, state_dict_error
from adapter_doctor.texts.adapter_facts import facts_from, is_about_adapter
from adapter_doctor.texts.descriptions import described
from adapter_doctor.texts.list_messages import is_for_comparison, messages_of
from adapter_doctor.texts.reading import Text
from adapter_doctor.texts.state_dict_error import Listed
from adapter_doctor.texts.state_dict_reasons import reasons_for


@dataclass(frozen=True)
class Recognised:
    """``facts`` holds the text's messages and its state dict; ``adapters`` the facts of each list that is about one.

    ``doubts`` say what is odd about the text.
    """

    facts: Facts
    adapters: tuple[Facts, ...] = ()
    doubts: tuple[str, ...] = ()


def recognise(text: Text) -> Recognised:
    """The facts that a text tells."""
    messages = list(forms.recognise(text))
    mismatch = StateDictMismatch()
    adapters: list[Facts] = []
    doubts: list[str] = []
    for source, listed in _lists(text.squeezed).items():
        line, _ = text.at(listed.at)
        doubts.extend(_doubts(listed))
        if source != "error" and not is_for_comparison(source, listed):
            messages += messages_of(source, listed, line)
        elif is_about_adapter(listed):
            adapters.append(facts_from(listed, f"line {line}"))
        elif not mismatch.reasons:
            mismatch = reasons_for(listed)
    if not (messages or adapters or mismatch.reasons):
        messages += described(text)
    return Recognised(
        Facts().adding(Messages(tuple(messages)), mismatch), tuple(adapters), tuple(dict.fromkeys(doubts))
    )


def by_code(messages: Messages) -> Mapping[str, list[Message]]:
    """The messages under the code of the rule that they speak of."""
    found: dict[str, list[Message]] = {}
    for message in messages.found:
        found.setdefault(message.code, []).append(message)
    return found


def _lists(squeezed: str) -> dict[str, Listed]:
    """The names and shapes that the text lists, by who lists them; `load_state_dict` itself first."""
    error = state_dict_error.parse(squeezed)
    return {**({"error": error} if error else {}), **key_lists.parse(squeezed)}


def _doubts(listed: Listed) -> list[str]:
    found = []
    for name in state_dict_error.contradictions(listed)[:1]:
        found.append(
            f"{name} is called missing and of another shape, which torch never says of one tensor: the text was edited"
        )
    if listed.cut:
        found.append("a list in the text breaks off, so the counts are lower bounds")
    return found
