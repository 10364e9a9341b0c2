"""How an engine's conduct is put into words."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import Effect, Outlook, Serving
from adapter_doctor.findings import Hit


def required(serving: Serving) -> Iterator[Outlook]:
    """The outlooks of engines that were asked for by name."""
    return (one for one in serving.outlooks if one.required)


def hits(serving: Serving, *outcomes: str) -> Iterator[Hit]:
    """A hit for each effect with one of these outcomes, in each engine that was asked for by name."""
    for outlook in required(serving):
        for effect in outlook.effects:
            if effect.outcome in outcomes:
                yield _hit(outlook, effect)


def _hit(outlook: Outlook, effect: Effect) -> Hit:
    dropped = f"; {effect.dropped} of {outlook.tensors} tensors have no effect" if effect.dropped else ""
    if effect.dropped == outlook.tensors > 0:
        dropped += ": the base model answers"
    quoted = effect.message.replace("…", "").strip()
    words = f" (it says: {effect.message})" if quoted else ""
    message = f"{outlook.engine} {outlook.version}: {effect.why}{dropped}{words}"
    return Hit(
        message,
        where=outlook.adapter or None,
        count=max(1, effect.dropped),
        fix=f"{outlook.engine}: {effect.fix}" if effect.fix else None,
    )
