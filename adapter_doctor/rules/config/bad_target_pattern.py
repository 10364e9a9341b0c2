"""AD109: bad target pattern."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, AdapterTensors, BaseModules, Missing
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.formats.config_patterns import pattern_trouble
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG, shown


@rule("AD109", Severity.ERROR, explains=("AD110", "AD211", "AD301", "AD5"), repairable=True)
def bad_target_pattern(
    config: AdapterConfig, base: BaseModules | Missing, tensors: AdapterTensors | Missing
) -> Iterator[Hit]:
    """A regular expression in the config does not compile, or does not finish.

    ## Why it matters
    PEFT hands text in `target_modules`, the keys of `rank_pattern` and even the entries of `modules_to_save` to Python's
    `re`. A broken one raises `re.error`; one that backtracks without end hangs the load, with nothing to stop it.

    ## Common causes
    A shell pattern (`*.q_proj`) where a regular expression belongs; a missing bracket; nested repeats such as `(.*)*`.

    ## Fix
    Correct the expression: `.*` for the shell's `*`, no repeat inside a repeat, or list the module names instead.
    """
    for field, pattern, why in pattern_trouble(config, _names(base, tensors)):
        fix = None
        if pattern.startswith("*"):
            fix = f"write {shown('.' + pattern)}: in a regular expression `.*` stands for what `*` is in a shell"
        yield Hit(f"the pattern {shown(pattern)} in `{field}` {why}", where=CONFIG, fix=fix)


def _names(base: BaseModules | Missing, tensors: AdapterTensors | Missing) -> list[str]:
    """The base's module names, or those that the tensors tell where the base is not known."""
    if isinstance(base, BaseModules) and base.modules:
        return list(base.modules)
    if isinstance(tensors, AdapterTensors):
        return sorted({one.module for one in map(parse, tensors) if one is not None and one.module})
    return []
