"""AD318: shape blind."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, BaseFolder
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.base_names import same_base
from adapter_doctor.rules import rule

_BLIND = frozenset({"FOURIERFT", "WAVEFT", "UNILORA", "PSOFT", "MISS", "ROAD", "BEFT", "PEANUT", "HRA", "OFT", "IA3"})


@rule("AD318", Severity.WARNING, explains=("AD112", "AD315"))
def shape_blind(config: AdapterConfig, base: BaseFolder) -> Iterator[Hit]:
    """This method's tensors do not show whether they belong to the base.

    ## Why it matters
    Their shapes do not depend on all sizes of the layers they adapt, so they load onto a wrong base as well.

    ## Common causes
    The adapter names another base than the one that was given.

    ## Fix
    Use the base that the adapter names; for this method a fit of shapes proves little.
    """
    if config.peft_type in _BLIND and base.given and not same_base(config.base_name, base.reference):
        yield Hit(
            f"{config.peft_type} made for {config.base_name!r} was given {base.reference!r}",
            where="adapter_config.json",
        )
