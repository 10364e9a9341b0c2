"""What to type to have an engine serve an adapter: flags, files and request fields, filled in from its profile."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adapter_doctor.facts import Outlook
from adapter_doctor.knowledge.profiles import Profile
from adapter_doctor.serving.case import Case
from adapter_doctor.serving.scaling import factors, trained
from adapter_doctor.serving.together import Adapter, targets


def _one_line(text: str) -> str:
    return " ".join(text.split())


_QUOTES: Mapping[str, Callable[[str], str]] = {
    "shell": shlex.quote, "python": repr, "json": json.dumps, "plain": _one_line,
}  # fmt: skip


def commands(profile: Profile, outlook: Outlook, base: str, adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """The profile's commands for the adapters, the first of which is the one under examination.

    There are none where the engine refuses it and nothing is known to help, and a command is left out that needs a
    number which is not one for all modules.
    """
    helped = any(one.fix for one in outlook.effects)
    if outlook.outcome == "inapplicable" or (outlook.outcome == "refused" and not helped):
        return ()
    values = _values(profile, outlook, [one.case for one in adapters])
    written = []
    for command in profile.commands:
        quote = _QUOTES[command.kind]
        pairs = [f"{quote(one.name)}={quote(one.reference)}" for one in adapters]
        texts = {
            "base": quote(base), "adapter": quote(adapters[0].reference), "name": quote(adapters[0].name),
            "adapters": " ".join(pairs), "adapters_commas": ",".join(pairs),
        }  # fmt: skip
        try:
            written.append(command.text.format(**texts, **values))
        except KeyError:  # a value that this adapter does not have, such as one factor for all modules
            continue
    return tuple(written)


def largest_rank(case: Case) -> int:
    """The largest rank of any module, by config and tensors; 0 where there is none."""
    ranks = [case.rank(module) for module in case.pairs if ".experts" not in module]
    with contextlib.suppress(TypeError, ValueError):  # a rule of the config's family says what is wrong
        ranks += [rank for rank, _ in case.declared.values()]
    return max(ranks, default=0)


def rounded(rank: int, choices: tuple[int, ...]) -> int | None:
    """The engine's smallest choice that holds the rank; the rank itself where any will do, None where none is enough."""
    if not choices:
        return rank
    return next((choice for choice in choices if choice >= rank), None)


def _values(profile: Profile, outlook: Outlook, cases: Sequence[Case]) -> dict[str, Any]:
    rank = max(map(largest_rank, cases))
    values: dict[str, Any] = {
        "flags": "".join(f" {one.flags}" for one in outlook.effects if one.flags),
        "targets": " ".join(targets(cases)),
        "max_loras": f" --max-loras {len(cases)}" if len(cases) > 1 else "",
        "several_and_base": len(cases) + 1,
    }
    choice = rounded(rank, profile.ranks) if rank else None
    if choice is not None:
        values["rank"] = choice
    near = profile.neighbours(outlook.version)
    scaling = profile.scaling(near[-1]) if near else None
    try:
        scalings = trained(cases[0])
        ratios = {round(ratio, 9) for ratio in factors(cases[0], scaling).values()} if scaling else set()
    except (TypeError, ValueError, ArithmeticError):
        return values
    if len(scalings) == 1:
        values["scale"] = f"{scalings.pop():.6g}"
    if ratios == {1.0}:
        values["plain"] = ""
    elif len(ratios) == 1 and (ratio := ratios.pop()):
        values["factor"] = f"{1 / ratio:.6g}"
    return values
