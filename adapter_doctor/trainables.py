"""Which parameters an adapter makes trainable on a base, in the model's order: foretold for LoRA, else asked of PEFT."""

from __future__ import annotations

import re

from adapter_doctor.facts import AdapterConfig, BaseModules, Fit, Missing, Trainable, TrainableParameters
from adapter_doctor.formats.adapter_keys import PREFIX, parse
from adapter_doctor.knowledge.module_order import in_model_order

# Names that get no weight decay (transformers' Trainer.get_decay_parameter_names), besides those in a LayerNorm.
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
# The order in which a LoRA layer registers its own (peft/tuners/lora/layer.py, LoraLayer.__init__).
_ORDER = ("base_layer", "lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")


def foretell_trainables(config: AdapterConfig, base: BaseModules, fit: Fit) -> TrainableParameters | Missing:
    """The parameters that train, by the places that the fit foretells.

    A checkpoint lists the base's modules in another order than the model has them; the table of orders tells the latter.
    """
    if config.peft_type != "LORA" or config.get("target_parameters"):
        return Missing(f"which parameters of {config.peft_type or 'this type'} train is known only to PEFT itself")
    if fit.refusal is not None and not fit.places:
        return Missing(f"PEFT refuses the config: {fit.refusal.line}")
    names = list(base.modules)
    if base.origin == "checkpoint":
        names = in_model_order(names, base.class_name) or []
    ranks = {name: number for number, name in enumerate(names)}
    found = []
    for key, shape in fit.places.items():
        parsed = parse(key)
        if parsed is not None:
            module, own = parsed.module, parsed.parameter
            tail = parsed.tail or (".weight" if own == "lora_magnitude_vector" else "")
            name = f"{PREFIX}{module}.{own}.default{tail}"
        else:
            module, _, own = key.removeprefix(PREFIX).rpartition(".")
            inside = module.endswith(".base_layer") or (module not in fit.targeted and own == "bias")
            module = module.removesuffix(".base_layer")
            saved = not inside
            name = f"{PREFIX}{module}.modules_to_save.default.{own}" if saved else key
            own = "base_layer" if inside else own
        at = ranks.get(module, len(ranks)), _ORDER.index(own) if own in _ORDER else 0
        layer_norm = module in base.modules and base.modules[module].class_name == "LayerNorm"
        found.append((at, Trainable(name, shape, not layer_norm and not _NO_DECAY.search(name.lower()), key)))
    found.sort(key=lambda entry: entry[0])
    return TrainableParameters("predicted", tuple(one for _, one in found), bool(names))
