"""Where a mended copy is to be served: the planners that this calls for, and the engine's own format where it has one."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_doctor.errors import DoctorError
from adapter_doctor.facts import AdapterTensors, BaseCheckpoint, Facts, Missing, Outlook, Serving
from adapter_doctor.formats.adapter_keys import PREFIX
from adapter_doctor.gather.values import compare_with_base
from adapter_doctor.knowledge.profiles import Profile, profile
from adapter_doctor.repair import engines, gguf, mlx
from adapter_doctor.repair.plan import CannotMend, Planner
from adapter_doctor.serving.stage import asked, with_serving
from adapter_doctor.sources import Source


@dataclass(frozen=True)
class Destination:
    """An engine to mend for, or none. ``format`` is ``peft``, ``mlx`` or ``gguf``."""

    profile: Profile | None = None
    version: str | None = None
    format: str = "peft"
    modelfile: bool = False

    @property
    def exports(self) -> bool:
        """Whether even a healthy adapter is written anew, in another format."""
        return self.format == "mlx" or self.modelfile or (self.format == "gguf" and gguf.converter() is not None)

    def planners(self, facts: Facts, adapter: Source, base: Source | None) -> tuple[Planner, ...]:
        """The planners that are asked after those that make PEFT load the adapter."""
        if self.profile is None:
            return ()
        own = engines.planners(self.profile, self.version, _Same(facts, adapter, base))
        return (*own, engines.one_scaling) if self.format == "mlx" else own

    def asked_of(self, facts: Facts, base: str) -> Facts:
        """``facts`` with what the engine makes of the adapter, where it reads PEFT's format; ``base`` is its name."""
        if self.profile is None or self.format == "mlx":
            return facts
        return with_serving(facts, [(self.profile, self.version, True)], base)

    @contextlib.contextmanager
    def exported(
        self, folder: Path, facts: Facts, base: Source | None, place: Path, options: Mapping[str, Any]
    ) -> Iterator[Path]:
        """The folder to be put in its place: the proven copy, or what became of it in the engine's format.

        Raises:
            CannotMend: the format cannot hold the adapter, or the converter is not there or refuses.
        """
        if self.format == "mlx":
            assert self.profile is not None
            self._holds(facts)
            beside = folder.parent / f"{self.format}-{folder.name}"
            beside.mkdir()
            mlx.export(folder, facts, beside)
            yield beside
            return
        if self.format == "gguf" and self.exports:
            root = base.path("") if base is not None else None
            if base is None or root is None:
                raise CannotMend("the converter reads the base's config from a folder, and the base is not one")
            output = folder / f"{place.name}.gguf"
            gguf.convert(folder, root, output, python=options.get("python"), time_limit=options["time_limit"])
            if self.modelfile:
                text = f"FROM {' '.join(str(root.resolve()).splitlines())}\nADAPTER ./{output.name}\n"
                (folder / "Modelfile").write_text(text, encoding="utf-8")
        yield folder

    def _holds(self, facts: Facts) -> None:
        """Nothing but the format itself may stand between the adapter and the engine."""
        assert self.profile is not None
        serving = with_serving(facts, [(self.profile, self.version, True)], "").get(Serving)
        outlook = serving.outlooks[0] if isinstance(serving, Serving) else Outlook(self.profile.engine, "")
        for effect in outlook.effects:
            if effect.trait != "peft-folder" and effect.outcome != "served":
                raise CannotMend(f"{self.profile.name} cannot hold it: {effect.why}")


def destination(engine: str | None) -> Destination:
    """What an entry such as ``sglang@0.5.23`` means for a repair.

    Raises:
        DoctorError: no profile has this name, or it stands for several.
    """
    if engine is None:
        return Destination()
    found = asked([engine])
    if len(found) != 1:
        raise DoctorError(f"a copy is mended for one engine, and {engine!r} are several", "--for ENGINE")
    one, version, _ = found[0]
    if one.engine == "mlx-lm":
        return Destination(one, version, "mlx")
    if one.engine == "ollama":  # it takes what llama.cpp takes, once that is in a GGUF file
        return Destination(profile("llama.cpp"), None, "gguf", modelfile=True)
    return Destination(one, version, "gguf" if one.engine == "llama.cpp" else "peft")


@dataclass(frozen=True)
class _Same:
    """Tensors of the adapter that hold the same bytes as the base's weights of the same name."""

    facts: Facts
    adapter: Source
    base: Source | None

    def __call__(self, names: Iterable[str]) -> Collection[str]:
        tensors, checkpoint = self.facts.get(AdapterTensors), self.facts.get(BaseCheckpoint)
        base = self.base.path("") if self.base is not None else None
        if isinstance(tensors, Missing) or isinstance(checkpoint, Missing) or base is None:
            return ()
        weights = self.adapter.path(tensors.file)
        if weights is None:
            return ()
        infos = {name: tensors.tensors[name] for name in names if name in tensors.tensors}
        bare = {name: name.removeprefix(PREFIX).replace(".base_layer.", ".") for name in infos}
        # A tied head is not in the checkpoint: it is the embedding.
        tied = {name: "model.embed_tokens.weight" for name in bare if bare[name] == "lm_head.weight"}
        known = {name: bare[name] if bare[name] in checkpoint.tensors else tied.get(name, "") for name in bare}
        return compare_with_base(weights, infos, base, checkpoint, known).same
