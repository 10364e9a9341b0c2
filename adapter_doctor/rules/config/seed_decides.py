"""AD121: seed decides."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG, shown

# Fields that decide what the tensors mean without showing in a shape, with their defaults.
_PLACES = "where the trained numbers lie in the weight"
_PROJECTION = "the projection, which is not in the file"
_MADE_FROM = {
    "FOURIERFT": ("random_loc_seed", 777, _PLACES),
    "WAVEFT": ("random_loc_seed", 777, _PLACES),
    "UNILORA": ("proj_seed", 42, "which trained number goes where"),
    "FROD": ("projection_prng_key", 0, "a part of the projection, the rest of which comes from the base's weights"),
    "VERA": ("projection_prng_key", 0, _PROJECTION),
    "PVERA": ("projection_prng_key", 0, _PROJECTION),
    "RANDLORA": ("projection_prng_key", 0, _PROJECTION),
    "TINYLORA": ("projection_seed", 42, _PROJECTION),
}
_SAVED_IF = {
    "UNILORA": ("save_indices", False),
    "VERA": ("save_projection", True),
    "PVERA": ("save_projection", True),
    "RANDLORA": ("save_projection", True),
    "TINYLORA": ("save_projection", True),
}


@rule("AD121", Severity.NOTE)
def seed_decides(config: AdapterConfig) -> Iterator[Hit]:
    """Parts of this adapter are made anew from a seed at each load.

    ## Why it matters
    The tensors fit whatever the seed is, and mean something else with another one; PEFT warns at most in general terms.
    Another release of torch, or another device, may also draw other numbers.

    ## Common causes
    The method keeps its file small in this way (FourierFT, WaveFT, UniLoRA), or the projections were not saved.

    ## Fix
    Leave the seed in adapter_config.json as it is; where there is a choice, train with `save_projection=True`.
    """
    made = _MADE_FROM.get(config.peft_type)
    if made is None:
        return
    field, default, what = made
    saved, saved_default = _SAVED_IF.get(config.peft_type, ("", False))
    if not (saved and config.get(saved, saved_default)):
        yield Hit(f"`{field}` {shown(config.get(field, default))} decides {what}", where=CONFIG)
