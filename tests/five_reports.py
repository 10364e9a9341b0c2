"""Five whole reports, which every format is compared on: sound, wrong base, gated base, crashed rule, hostile strings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from patient import patient

from adapter_doctor.engine import judge
from adapter_doctor.facts import AdapterConfig, BaseModules, Comparison, Fit, LoadOutcome, Missing
from adapter_doctor.findings import Hit
from adapter_doctor.report import Report, build
from adapter_doctor.rules import Rule, rules_of
from adapter_doctor.suppression import suppress

SCRIPT = "<script>document.title='pwned'</script><img src=x onerror=alert(1)>"
ESCAPES = "\x1b[31mred\x1b[0m\x07 \u202eright [red]bold[/red] ::error::no %0A | ``` ]]> --> @octocat [here](http://example.com)"
HOSTILE = f"{SCRIPT}{ESCAPES}"

CHANGES: dict[str, dict[str, Any]] = {
    "sound": {},
    "wrong-base": {
        "base": {
            "hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 256,
            "num_hidden_layers": 6,
        },
    },
    "gated-base": {
        "base_folder": {
            "exists": False, "reason": "gated", "why": "example/tiny-llama is gated: accept its terms on its page",
        },
    },
    "crashed-rule": {},
    "hostile-strings": {
        "config": {
            "target_modules": [HOSTILE, "q_proj", "k_proj", "v_proj", "o_proj"], "base_model_name_or_path": f"x/{HOSTILE}",
            "task_type": HOSTILE,
        },
        "folder": {"reference": f"adapters/{HOSTILE}"},
        "base_folder": {"reference": f"bases/{HOSTILE}"},
        "tensors": {"rename": {r"layers\.0\.self_attn\.q_proj": f"layers.0.{SCRIPT}.q_proj"}},
    },
}  # fmt: skip


# The rules of these reports, so that a new one does not change every golden file.
CODES = (
    "AD001", "AD003", "AD101", "AD103", "AD107", "AD108", "AD115", "AD119", "AD203", "AD206", "AD210", "AD211", "AD212",
    "AD213", "AD302", "AD304", "AD306", "AD307", "AD311", "AD314", "AD315", "AD401", "AD501", "AD502", "AD503", "AD505",
)  # fmt: skip


@cache
def report(name: str) -> Report:
    """The report of this name."""
    facts = patient(CHANGES[name]).lacking(
        Missing("there is no base to look at"), Fit, Comparison, BaseModules, LoadOutcome
    )
    rules = [rule for rule in rules_of() if rule.code in CODES]
    if name == "crashed-rule":
        rules = [_crashing(rule) if rule.code == "AD211" else rule for rule in rules]
    reasons = {"AD302": f"kept for the old server {HOSTILE}"} if name == "hostile-strings" else {}
    outcomes, suppressed = suppress(judge(rules, facts), reasons, frozenset())
    reference = CHANGES[name].get("base_folder", {}).get("reference", "example/tiny-llama")
    return build(outcomes, facts, reference, suppressed=suppressed)


def _crashing(rule: Rule[...]) -> Rule[...]:
    def rank_mismatch(config: AdapterConfig) -> Iterator[Hit]:
        raise ZeroDivisionError("division by zero")

    rank_mismatch.__doc__ = rule.check.__doc__
    return replace(rule, check=rank_mismatch, reads=(("config", AdapterConfig),), optional=frozenset())
