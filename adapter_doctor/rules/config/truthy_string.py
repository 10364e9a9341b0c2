"""AD120: truthy string."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG, shown

# Boolean fields that change a loaded adapter: what they switch was asked of PEFT 0.21.2. The others act in training
# only, or PEFT overrides them (`inference_mode`, `fan_in_fan_out`).
_FIELDS = {
    "ADALORA": ("use_dora",),
    "DEFT": ("para",),
    "HRA": ("apply_GS",),
    "LOKR": ("decompose_both",),
    "LORA": ("lora_bias", "use_dora", "use_rslora"),
    "OFT": ("block_share", "coft", "use_cayley_neumann"),
    "PSOFT": ("psoft_orth", "use_cayley_neumann"),
    "PVERA": ("sample_at_inference", "save_projection"),
    "SHADOW": ("share_embeddings",),
    "VERA": ("save_projection",),
    "WAVEFT": ("proportional_parameters", "use_idwt"),
}
_MEANS_TRUE = ("true", "yes", "on", "1", "y", "t")


@rule("AD120", Severity.ERROR, explains=("AD113", "AD212", "AD304", "AD5"))
def truthy_string(config: AdapterConfig) -> Iterator[Hit]:
    """A switch in the config is set to text, which counts as on.

    ## Why it matters
    Python takes any text that is not empty for true, "false" too. PEFT does not check, so rsLoRA's scaling is applied,
    DoRA's magnitudes are expected, and most of it happens without a word.

    ## Common causes
    The config went through a command line, YAML or environment variables, which turned `false` into text.

    ## Fix
    Write true or false without quotes in adapter_config.json.
    """
    for field in _FIELDS.get(config.peft_type, ()):
        value = config.get(field)
        if isinstance(value, str) and value and value.strip().lower() not in _MEANS_TRUE:
            yield Hit(
                f"`{field}` is the text {shown(value)}, which counts as true; expected true or false without quotes",
                where=CONFIG,
                fix=f'write "{field}": false',
            )
