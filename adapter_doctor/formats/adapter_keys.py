"""The grammar of tensor names in adapter files: which part is the module, which the adapter's own parameter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

PREFIX = "base_model.model."
"""What PeftModel puts before the base model's own module names."""

WRAPPERS = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "module": "DistributedDataParallel or DeepSpeed",
    "pretrained_model": "TRL's value-head wrapper",
    "_forward_module": "Lightning",
    "_ddp_params_and_buffers": "torch DDP",
}
"""Segments that training wrappers put into names, and whose they are."""

# Parameters of PEFT's layers as they end in a file, from the tuners' own `adapter_layer_names` (PEFT 0.21) and older
# releases' files. The name in the second group is the adapter's, where a raw `state_dict()` was saved.
_PARAMETERS = (
    r"lora_(?:A|B|embedding_A|embedding_B|E|magnitude_vector|diag|monteclora_sampler)"
    r"|ia3_l|ia3_l\b|hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2|oft_[rRs]|boft_[RsP]|vera_(?:A|B|lambda_[bd])"
    r"|pvera_(?:A|B|lambda_[bd])|fourierft_spectrum|waveft_spectrum|hra_u|vblora_(?:logits|vector_bank)(?:_[AB])?(?:_\w+)?"
    r"|randlora_(?:A|B|lambda|gamma)|bone_block|miss_block|c3a_kernel|shira_(?:weight|indices)|road_(?:theta|alpha)"
    r"|delora_(?:A|B|lambda|w_norm)|osf_svd_params|gralora_[AB](?:_general)?|lily_(?:A|B|router)"
    r"|peanut_(?:A|B|encoders|decoders)|psoft_R|tinylora_(?:A|B|P|v)|beft_bias|deft_[PR]|glora_[A-E]|hira_[AB]"
    r"|frod_\w+|unilora_\w+|adamss_\w+|supertuning_(?:values|indices)|poly_(?:lora_[AB]|router)|shadow_\w+"
    r"|ln_tuning_layers|adaption_(?:prompt|gate)|trainable_tokens_delta|token_adapter|internal_xlora_classifier"
)
_KEY = re.compile(
    rf"^(?P<module>.*?)\.?(?P<parameter>(?<![A-Za-z0-9_])(?:{_PARAMETERS})(?![A-Za-z0-9]))(?P<tail>\..*)?$"
)
_PROMPT = re.compile(r"(^|\.)(prompt_embeddings|prefix_task_(?:cols|rows))$")


@dataclass(frozen=True, slots=True)
class AdapterKey:
    """One tensor name, taken apart: ``prefix`` + ``module`` + ``parameter`` + ``tail``.

    ``module`` is the base model's module name, without PEFT's prefix; ``tail`` is what follows the parameter, such as
    ``.weight`` or ``.default.weight``.
    """

    key: str
    prefix: str
    module: str
    parameter: str
    tail: str


@lru_cache(maxsize=1 << 14)  # a dozen rules ask for each of an adapter's names
def parse(key: str) -> AdapterKey | None:
    """The parts of an adapter tensor's name, or None for a name that no PEFT method uses."""
    if _PROMPT.search(key):
        return AdapterKey(key, "", "", key.rpartition(".")[2], "")
    match = _KEY.match(key)
    if match is None:
        return None
    module = match["module"]
    prefix = ""
    if (module + ".").startswith(PREFIX):
        prefix, module = PREFIX, module[len(PREFIX) :]
    elif (module + ".").startswith("base_model."):
        prefix, module = "base_model.", module[len("base_model.") :]
    return AdapterKey(key, prefix, module, match["parameter"], match["tail"] or "")


def adapter_name(parsed: AdapterKey) -> str | None:
    """The adapter's name inside the key (``default`` of ``lora_A.default.weight``), or None where it has none."""
    if not parsed.parameter.startswith(("lora_", "ia3_l", "hada_", "lokr_", "oft_", "boft_", "vera_lambda")):
        return None
    parts = [part for part in parsed.tail.split(".") if part]
    if parts and parts[-1] in ("weight", "bias"):
        parts.pop()
    if parsed.parameter == "lora_monteclora_sampler" or len(parts) != 1:
        return None
    return parts[0]
