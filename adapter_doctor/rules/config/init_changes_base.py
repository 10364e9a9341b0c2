"""AD114: init changes base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adapter_doctor.facts import AdapterConfig
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG, shown

_SAME = "the same weights in the same dtype as in training"
_RESIDUAL = "the base that the training saved beside the adapter"


@rule("AD114", Severity.WARNING)
def init_changes_base(config: AdapterConfig) -> Iterator[Hit]:
    """The adapter was trained on a base whose weights its initialisation had changed.

    ## Why it matters
    PiSSA and OLoRA take a part out of the base's weights, and PEFT takes it out again at each load: right only on the
    very weights and dtype of the training. CorDA, LoftQ and LoRA-GA are not repeated at a load, so the plain base is
    the wrong one. KaSA cuts the base's weights for good, so that nothing else may use that copy.

    ## Common causes
    `save_pretrained` without `path_initial_model_for_weight_conversion`, which would have made a plain LoRA of it.

    ## Fix
    Load it on exactly the base of the training; or convert it there once:
    `model.save_pretrained(DIR, path_initial_model_for_weight_conversion=…)`.
    """
    if config.peft_type != "LORA":
        return
    start = config.get("init_lora_weights")
    name = start if isinstance(start, str) else ""
    if name.startswith("pissa_niter"):
        yield Hit(
            f"`init_lora_weights` is {shown(start)}: a random decomposition of the base's weights, which comes out"
            f" differently at each load; expected {_SAME} and the same random state",
            where=CONFIG,
        )
    elif name == "pissa" or name.lower() == "olora":
        yield Hit(
            f"`init_lora_weights` is {shown(start)}: at each load PEFT subtracts what it computes from the base's"
            f" weights; expected {_SAME}",
            where=CONFIG,
        )
    elif name in ("lora_ga", "loftq") or name.startswith("corda"):
        yield Hit(
            f"`init_lora_weights` is {shown(start)}, which changed the base's weights in training and cannot be done"
            f" again at a load; expected {_RESIDUAL}",
            where=CONFIG,
        )
    if isinstance(config.get("kasa_config"), Mapping):
        yield Hit(
            "`kasa_config` is set: PEFT cuts the smallest singular values off the base's weights at the load, and"
            f" disabling the adapter does not bring them back; expected {_SAME}",
            where=CONFIG,
        )
