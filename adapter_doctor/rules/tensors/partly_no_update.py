"""AD215: partly no update."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, AdapterTensors, TensorValues
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.updates import gates
from adapter_doctor.rules import rule


@rule("AD215", Severity.WARNING)
def partly_no_update(config: AdapterConfig, tensors: AdapterTensors, values: TensorValues) -> Iterator[Hit]:
    """Some modules' updates are exactly zero.

    ## Why it matters
    Those modules were never trained, although the adapter carries tensors for them.

    ## Common causes
    Layers that get no gradient (a vision tower that was not used, the layers before a frozen cut), a partial save.

    ## Fix
    If these modules were meant to learn, check that they lie on the path of the loss; if not, leave them out of
    `target_modules` next time.
    """
    found = gates(config, tensors, values)
    if found.idle and (len(found.idle) < len(found.all) or found.other_effects):
        yield Hit(
            f"{len(found.idle)} of {len(found.all)} {found.kind} tensors are {found.idle_value}",
            where=tensors.file,
            count=len(found.idle),
            examples=some(found.idle),
        )
