"""Let `PeftModel.save_pretrained` and `push_to_hub` refuse to give away an adapter with an error."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from adapter_doctor.doctor import check
from adapter_doctor.report import AdapterError


class guard:  # noqa: N801 - it is used as a function
    """From now on, or inside a `with`, adapters that PEFT saves are examined first, in a folder of their own.

    What has an error is not saved: :class:`adapter_doctor.AdapterError` is raised, and nothing is in the folder or on
    the Hub that was not there before. ``base`` is the base to examine on, if not the one that the config names; ``load``
    and ``ignore`` are as in :func:`adapter_doctor.check`. :meth:`remove` takes the guard away.
    """

    def __init__(
        self,
        base: str | Path | None = None,
        load: Literal["skeleton", "full", "no"] = "no",
        ignore: Iterable[str] | Mapping[str, str] = (),
    ) -> None:
        from peft import PeftModel

        self._kind: Any = PeftModel
        self._before = PeftModel.save_pretrained, PeftModel.push_to_hub
        self._examine = functools.partial(_examined, base=base, load=load, ignore=ignore)
        PeftModel.save_pretrained = self._guarded_save(PeftModel.save_pretrained)
        PeftModel.push_to_hub = self._guarded_push(PeftModel.push_to_hub)

    def _guarded_save(self, save: Callable[..., Any]) -> Callable[..., Any]:
        """`save_pretrained` that writes elsewhere first."""

        @functools.wraps(save)
        def save_pretrained(model: Any, save_directory: str | Path, *arguments: Any, **options: Any) -> Any:
            place = Path(save_directory)
            if place.is_file():
                return save(model, save_directory, *arguments, **options)
            with tempfile.TemporaryDirectory(prefix="adapter-doctor-") as scratch:
                aside = Path(scratch, place.name or "adapter")
                if place.is_dir() and (place / "README.md").is_file():  # PEFT completes the card that is there
                    aside.mkdir()
                    shutil.copy2(place / "README.md", aside)
                answer = save(model, str(aside), *arguments, **options)
                self._examine(aside)
                shutil.copytree(aside, place, dirs_exist_ok=True)
            return answer

        return save_pretrained

    def _guarded_push(self, push: Callable[..., Any]) -> Callable[..., Any]:
        """`push_to_hub` that looks before it makes the repository, as it does before it saves."""

        @functools.wraps(push)
        def push_to_hub(model: Any, *arguments: Any, **options: Any) -> Any:
            with tempfile.TemporaryDirectory(prefix="adapter-doctor-") as scratch:
                self._before[0](model, scratch)
                self._examine(Path(scratch))
            return push(model, *arguments, **options)

        return push_to_hub

    def remove(self) -> None:
        """Let PEFT save as it did before."""
        self._kind.save_pretrained, self._kind.push_to_hub = self._before

    def __enter__(self) -> guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def _examined(place: Path, base: str | Path | None, **options: Any) -> None:
    """Examine every adapter that was saved below ``place``: PEFT puts those with a name of their own in subfolders."""
    for folder in sorted({path.parent for path in place.rglob("adapter_config.json")}):
        report = check(base, folder, **options)
        if report.verdict == "incompatible":
            raise AdapterError(report)
