"""AD110: pattern matches nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adapter_doctor.facts import AdapterConfig, Fit
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.formats.patterns import BadPattern, matching
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG, shown

# The types that look their keys up with PEFT's get_pattern_key (utils/other.py).
_TYPES = ("LORA", "LOHA", "LOKR", "DELORA", "HIRA")
# What PEFT writes into the config of LoRA on experts that it converted (transformers_weight_conversion.py).
_OWN_KEYS = (r".*\.gate_up_proj", r".*\.down_proj", r".*\.gate")


@rule("AD110", Severity.WARNING)
def pattern_matches_nothing(config: AdapterConfig, fit: Fit) -> Iterator[Hit]:
    r"""A key of `rank_pattern` or `alpha_pattern` names none of the targeted modules.

    ## Why it matters
    PEFT ignores it. Where the rank was meant, the shapes will not fit; where alpha was, the scaling is another one
    without a word.

    ## Common causes
    Module names of another library or release, a missing `.*` in front of a path's middle, a typing error; a key for
    single experts (`w1`), which PEFT does not carry over to fused ones.

    ## Fix
    Write the end of the module's path, such as `layers\.3\.mlp\.up_proj` or `up_proj`; remove keys that mean nothing.
    """
    settled = fit.targeted and fit.refusal is None
    if config.peft_type not in _TYPES or config.get("target_parameters") or not settled:
        return
    for field in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(field)
        keys = [key for key in pattern if isinstance(key, str)] if isinstance(pattern, Mapping) else []
        lost = [key for key in keys if key not in _OWN_KEYS and not _matches(key, fit.targeted)]
        if lost:
            yield Hit(
                f"{len(lost)} of {len(keys)} keys of `{field}` match none of the {len(fit.targeted)} targeted modules:"
                f" {', '.join(shown(key) for key in lost[:3])}",
                where=CONFIG,
                count=len(lost),
                examples=some(shown(key, 200) for key in lost),
            )


def _matches(key: str, modules: tuple[str, ...]) -> bool:
    """Whether PEFT applies the key to one of the modules; a broken pattern is another rule's matter."""
    if any(name == key or name.endswith(f".{key}") for name in modules):
        return True
    try:
        return bool(matching(rf"(.*\.)?({key})$", modules, whole=False, core=key))
    except BadPattern:
        return True
