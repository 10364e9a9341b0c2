"""AD207: weights sharded."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adapter_doctor.facts import AdapterFolder, WeightsFiles
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule

_SHARD = re.compile(r"^adapter_model[-_.]\d+[-_]of[-_]\d+\.(safetensors|bin)$")


@rule("AD207", Severity.ERROR, explains=("AD201", "AD5"), repairable=True)
def weights_sharded(weights: WeightsFiles, adapter: AdapterFolder) -> Iterator[Hit]:
    """The weights are split over several files, which PEFT does not read.

    ## Why it matters
    PEFT looks for one file only; the shards beside it are passed over.

    ## Common causes
    A trainer's own save function with a shard size; an adapter of many gigabytes.

    ## Fix
    Join the shards into one `adapter_model.safetensors`: load each with safetensors and save all tensors together.
    """
    shards = [one.name for one in weights.others if _SHARD.match(one.name)]
    index = [name for name in adapter.files if name.startswith("adapter_model.") and name.endswith(".index.json")]
    if weights.chosen is None and shards:
        yield Hit(f"{len(shards)} shards, expected one file", count=len(shards), examples=some(shards + index))
