"""How the rules of this family tell and show what a config holds, which may be of any JSON type."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, TypeGuard

from adapter_doctor import knowledge
from adapter_doctor.facts import Environment, LoadOutcome, Missing

CONFIG = "adapter_config.json"
LARGEST_INTEGER = 2**63
LARGEST_FLOAT = 3.4e38
"""Of float32, in which PEFT keeps and applies adapters."""


def shown(value: Any, most: int = 60) -> str:
    """A value as its file has it, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (ValueError, TypeError, RecursionError):  # integers of thousands of digits, nesting without end
        text = f"a value of type {type(value).__name__} that is too long to show"
    return text if len(text) <= most else text[: most - 1] + "…"


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether PEFT can compute with it: Python's booleans count, as they do there."""
    return isinstance(value, (int, float))


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether it is an integer that torch takes for a size."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_INTEGER


def is_finite(value: Any) -> bool:
    """Whether it is a number that float32 can hold."""
    return is_number(value) and (abs(value) <= LARGEST_FLOAT if isinstance(value, int) else math.isfinite(value)
                                 and abs(value) <= LARGEST_FLOAT)  # fmt: skip


def one_of(value: Any, choices: Iterable[Any]) -> bool:
    """Whether it equals one of the choices and has its type; safe for lists and objects."""
    return any(type(value) is type(choice) and value == choice for choice in choices)


def was_taken(outcome: LoadOutcome | Missing) -> bool:
    """Whether the load went through, so that nothing in the config was refused."""
    return isinstance(outcome, LoadOutcome) and outcome.refusal is None and not outcome.died


def installed_release(environment: Environment | Missing) -> str | None:
    """The PEFT release in the tables that the installed version counts as; None where PEFT is not installed."""
    version = None if isinstance(environment, Missing) else environment.version("peft")
    return knowledge.release_at(version) if version else None


def is_before(release: str, other: str) -> bool:
    """Whether one PEFT release, of those in the tables, came before another."""
    order = knowledge.releases()
    return order.index(release) < order.index(other)
