"""Open what a base and an adapter are named by: from a reference, or from the adapter's config, to a source of files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapter_doctor import reference as references
from adapter_doctor.errors import DoctorError
from adapter_doctor.facts import AdapterConfig, BaseConfig, BaseFolder, Facts, Missing
from adapter_doctor.sources import Source
from adapter_doctor.sources.disk import DiskSource


def open_source(
    text: str, revision: str | None = None, subfolder: str | None = None, **opening: Any
) -> tuple[Source, list[str]]:
    """The folder or repository that ``text`` names, and what the report should say about the choice.

    Raises:
        DoctorError: nothing can be meant by it.
    """
    parsed = references.parse(text, revision=revision, subfolder=subfolder)
    notes = [f"{text!r} is a folder here and was taken; hf://{text} means the repository"] if parsed.shadowed else []
    if parsed.path is not None:
        return DiskSource(parsed.path, str(parsed)), notes
    from adapter_doctor.sources.hub import HubSource

    return HubSource(parsed, **opening), notes


def opened(
    given: object, revision: str | None, subfolder: str | None, opening: dict[str, Any]
) -> tuple[Source, list[str]]:
    """The source that was given, or that its name opens."""
    if isinstance(given, (str, Path)):
        return open_source(str(given), revision, subfolder, **opening)
    return given, []  # type: ignore[return-value]  # a Source, which is a protocol


def prepare(
    adapter: Source | None, base: Source | None, static: bool, meanwhile: Callable[[], object] | None = None
) -> None:
    """Let both sources get ready side by side what will be read of them: on the Hub each request is a round trip.

    ``meanwhile`` is done while they are waited for.
    """
    wanted = ["config.json", "adapter_config.json"]
    jobs = [(adapter, ("adapter_config.json", "adapter_model.safetensors"))] if adapter else []
    jobs += [(base, (*wanted, *(("model.safetensors", "*.index.json") if static else ())))] if base else []
    threads = [threading.Thread(target=source.prepare, args=names) for source, names in jobs]
    for thread in threads:
        thread.start()
    if meanwhile is not None:
        meanwhile()
    for thread in threads:
        thread.join()


def named_base(facts: Facts, revision: str | None, opening: dict[str, Any]) -> tuple[Source | None, list[str], Facts]:
    """The base that the adapter's config names, at the revision that it names; what cannot be one becomes a fact."""
    config = facts.get(AdapterConfig)
    name = config.base_name if isinstance(config, AdapterConfig) else ""
    recorded = config.get("revision") if isinstance(config, AdapterConfig) else None
    why = "the adapter's config names no base"
    if name:
        try:
            plain = "@" not in name and not Path(name).exists()
            own = recorded if isinstance(recorded, str) and plain else None
            source, notes = open_source(name, revision or own, None, **opening)
        except (DoctorError, OSError, ValueError) as error:  # a stranger's config, not a wrong argument
            why = getattr(error, "message", "") or f"{name[:100]!r} names nothing that could be there"
        else:
            return source, notes, facts
    facts = facts.adding(BaseFolder(name, False, why, "not-found", given=False))
    return None, [], facts.lacking(Missing(f"there is no base to look at: {why}"), BaseConfig)
