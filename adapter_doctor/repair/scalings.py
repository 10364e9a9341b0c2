"""The scaling of a module's update, for repairs: a config that does not tell it cannot be mended."""

from __future__ import annotations

from adapter_doctor.facts import AdapterConfig
from adapter_doctor.formats import declared_ranks
from adapter_doctor.repair.plan import CannotMend


def scaling_of(config: AdapterConfig, module: str) -> float:
    """What PEFT multiplies the update with.

    Raises:
        CannotMend: alpha, rank or a pattern in the config is none.
    """
    try:
        return declared_ranks.scaling_of(config, module)
    except (TypeError, ValueError) as trouble:
        raise CannotMend(f"the scaling of {module} cannot be told from the config: {trouble}") from None
