"""A repair as data: steps, what has become of the adapter after them, and the loop that finds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from adapter_doctor.facts import AdapterConfig, AdapterTensors, Facts, TensorInfo
from adapter_doctor.repair.recipes import Recipe, described

MOST_STEPS = 30
"""No adapter needs as many; a planner that never has enough is stopped here."""


class CannotMend(Exception):
    """A defect is there, and no repair is certain; the message is a clause that says why."""


class Hopeless(CannotMend):
    """As CannotMend, and no other repair makes sense."""


@dataclass(frozen=True)
class Wishes:
    """What the user asks for beyond what is lossless: a PEFT release to write for, and which losses are accepted.

    ``losses`` holds any of ``rows``, ``layers`` and ``nan``.
    """

    for_peft: str | None = None
    losses: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Step:
    """One change: what it mends, in a sentence, and the change itself.

    ``code`` is that of the rule whose finding it mends. ``renames`` go from old names to new ones, ``makes`` are new
    tensors, ``drops`` are taken out; ``settings`` are fields of the config with their new values, ``unset`` fields that
    are taken out. ``loss`` says what is lost, and is empty for what loses nothing. ``other_tree`` says that the training
    saw another tree of modules than the base has, so that the config's targets may mean other modules here.
    """

    code: str
    what: str
    renames: Mapping[str, str] = field(default_factory=dict)
    makes: Mapping[str, Recipe] = field(default_factory=dict)
    drops: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = field(default_factory=dict)
    unset: frozenset[str] = frozenset()
    loss: str = ""
    other_tree: bool = False


@dataclass(frozen=True)
class Draft:
    """The mended adapter as planned so far: its config, its tensors by name in the order of the file, and the steps.

    ``original`` are the tensors of the adapter as it came, ``beside`` what other libraries' files beside them hold, and
    ``scalars`` the values of tensors with one element. ``obstacles`` say what could not be mended.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Recipe]
    original: Mapping[str, TensorInfo] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, Any] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    obstacles: tuple[str, ...] = ()

    def after(self, step: Step) -> Draft:
        """The draft after one more step.

        Raises:
            CannotMend: two tensors would get one name.
        """
        tensors: dict[str, Recipe] = {}
        kept = [(step.renames.get(name, name), one) for name, one in self.tensors.items() if name not in step.drops]
        for name, recipe in [*kept, *step.makes.items()]:
            if name in tensors:
                raise CannotMend(f"two tensors would both be called {name!r}")
            tensors[name] = recipe
        config = {name: value for name, value in self.config.items() if name not in step.unset} | dict(step.settings)
        return replace(self, config=config, tensors=tensors, steps=(*self.steps, step))

    def facts(self, facts: Facts) -> Facts:
        """``facts`` with this draft for the adapter's config and tensors."""
        known = facts.get(AdapterTensors)
        file = known.file if isinstance(known, AdapterTensors) else "adapter_model.safetensors"
        tensors = {name: described(recipe) for name, recipe in self.tensors.items()}
        return facts.adding(AdapterConfig(self.config), AdapterTensors(file, tensors, self.metadata))


@dataclass(frozen=True)
class Case:
    """What a planner looks at: the draft so far, its facts, and what the user wishes."""

    draft: Draft
    facts: Facts
    wishes: Wishes


Planner: TypeAlias = Callable[[Case], Step | None]
"""Proposes the next step, if it knows one; raises CannotMend where something is wrong and no cure is certain."""


def plan(
    draft: Draft, planners: Sequence[Planner], measure: Callable[[Draft], Facts], wishes: Wishes
) -> tuple[Draft, Facts]:
    """The draft after every step that any planner proposes, and its facts. ``measure`` finds out where a draft lands.

    Raises:
        Hopeless: a planner sees that no repair makes sense.
    """
    facts = measure(draft)
    at = 0
    refused: dict[str, None] = {}
    while at < len(planners) and len(draft.steps) < MOST_STEPS:
        try:
            step = planners[at](Case(draft, facts, wishes))
            later = draft.after(step) if step is not None else draft
        except Hopeless:
            raise
        except CannotMend as why:
            refused[str(why)] = None
            step = None
        if step is None:
            at += 1
            continue
        draft = later
        facts = measure(draft)
        at = 0  # what was hidden before may now be plain to an earlier planner
        refused.clear()
    return replace(draft, obstacles=tuple(refused)), facts
