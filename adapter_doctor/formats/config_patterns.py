"""Find the regular expressions in an adapter's config that would break the load or hang it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from adapter_doctor.facts import AdapterConfig
from adapter_doctor.formats.patterns import BadPattern, matching

NAMES = (
    "model.layers.10.self_attn.q_proj",
    "model.language_model.layers.27.mlp.experts.63.down_proj",
    "base.encoder.layer.11.attention.attention.output.dense_aaaaaaaaaaaaaaaaaaaaaaaa",
)
"""Module names to try a pattern on where nothing is known of the base; the last is what a runaway pattern likes."""
MOST = 5
"""Troubles reported at most: each pattern that does not finish costs its whole time limit."""

_KEYED = (
    "rank_pattern", "alpha_pattern", "n_frequency_pattern", "block_size_pattern", "lambda_pattern",
)  # fmt: skip
_PLAIN = re.compile(r"[\w.\-]*")


def pattern_trouble(config: AdapterConfig, names: Iterable[str]) -> list[tuple[str, str, str]]:
    """The patterns that do not compile or do not finish on ``names``, each as (field, pattern, why).

    What PEFT makes of each field is in tuners/tuners_utils.py (check_target_module_exists) and utils/other.py
    (get_pattern_key). Where ``names`` is empty, a few made-up module names stand in.
    """
    tried = tuple(name for name in names if name) or NAMES
    found: list[tuple[str, str, str]] = []
    for field, pattern, whole, expression in _expressions(config):
        try:
            matching(expression, tried, whole=whole)
        except BadPattern as trouble:
            found.append((field, pattern, str(trouble)))
            if len(found) == MOST:
                break
    return found


def _expressions(config: AdapterConfig) -> Iterator[tuple[str, str, bool, str]]:
    """Each pattern as (field, as written, matched as a whole, as PEFT hands it to `re`)."""
    for field in ("target_modules", "exclude_modules", "feedforward_modules"):
        value = config.get(field)
        if isinstance(value, str) and not _PLAIN.fullmatch(value):
            yield field, value, True, value
    if not config.is_prompt_learning:  # which takes `modules_to_save` as names
        for entry in _texts(config.get("modules_to_save")):
            yield "modules_to_save", entry, False, rf"(^|.*\.){entry}($|\..*)"
    targets = config.get("target_modules")
    if config.get("layers_to_transform") is not None and not isinstance(targets, str):
        value = config.get("layers_pattern")
        for entry in _texts([value] if isinstance(value, str) else value):
            yield "layers_pattern", entry, False, rf"(?:^|.*?\.){entry}\.(?P<idx>\d+)\."
    if config.peft_type != "ADALORA":  # whose `rank_pattern` holds module names
        for field in _KEYED:
            value = config.get(field)
            for key in _texts(value if isinstance(value, Mapping) else None):
                yield field, key, False, rf"(.*\.)?({key})$"


def _texts(value: object) -> Iterator[str]:
    """The strings in a list, or the keys of an object, that are more than plain names."""
    if isinstance(value, (list, tuple, Mapping)):
        yield from (entry for entry in value if isinstance(entry, str) and not _PLAIN.fullmatch(entry))
