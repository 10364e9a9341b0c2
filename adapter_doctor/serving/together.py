"""What keeps several adapters from being served by one engine, and what the engine must hold for all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from adapter_doctor.formats.base_names import same_base
from adapter_doctor.serving.case import Case


@dataclass(frozen=True, slots=True)
class Adapter:
    """One of the adapters to be served together."""

    reference: str
    case: Case

    @property
    def name(self) -> str:
        """What an engine would call it: the last part of its reference."""
        return self.reference.rstrip("/\\").replace("\\", "/").rpartition("/")[2].partition("@")[0]


def clashes(adapters: Sequence[Adapter]) -> list[str]:
    """Sentences about names that two adapters share, and about bases that differ."""
    said = []
    named: dict[str, list[str]] = defaultdict(list)
    for one in adapters:
        named[one.name].append(one.reference)
    for name, references in named.items():
        if len(references) > 1:
            said.append(f"{' and '.join(references)} are both called {name!r}; requests name an adapter by one name")
    first = adapters[0]
    for other in adapters[1:]:
        one_base, other_base = first.case.config.base_name, other.case.config.base_name
        if not same_base(one_base, other_base):
            said.append(f"{first.reference} was made for {one_base!r}, {other.reference} for {other_base!r}")
    return said


def targets(cases: Sequence[Case]) -> list[str]:
    """The leaf names of the modules that any of the adapters adapts, sorted."""
    return sorted({module.rpartition(".")[2] for case in cases for module in case.pairs})
