"""AD404: backend missing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, BaseConfig, Environment, LoadOutcome, Missing, Refusal
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule

# The packages of which one has to be there to run a quantised base, by `quant_method` (transformers/quantizers).
_BACKENDS = {
    "aqlm": ("aqlm",),
    "auto-round": ("auto-round",),
    "awq": ("gptqmodel", "autoawq"),
    "bitsandbytes": ("bitsandbytes",),
    "bitsandbytes_4bit": ("bitsandbytes",),
    "bitsandbytes_8bit": ("bitsandbytes",),
    "compressed-tensors": ("compressed-tensors",),
    "eetq": ("eetq",),
    "fbgemm_fp8": ("fbgemm-gpu",),
    "gptq": ("gptqmodel", "auto-gptq"),
    "hqq": ("hqq",),
    "quanto": ("optimum-quanto",),
    "torchao": ("torchao",),
    "vptq": ("vptq",),
}
_LOFTQ = "set `init_lora_weights` to true, which is enough for a trained adapter, or: pip install bitsandbytes"
_ERRORS = ("ImportError", "ModuleNotFoundError", "RuntimeError", "ValueError")
_NO_MODULE = re.compile(r"No module named '(\w+)")
_PIP = re.compile(r"pip install (?:-U |--upgrade )?[\"'`]?([A-Za-z][\w.-]*\w)")
_LACKING = re.compile(r"require|please install|not installed|not available|not found", re.I)
_NAMED = re.compile(
    r"(?<![\w-])(?:bitsandbytes|gptqmodel|auto[-_]gptq|autoawq|hqq|aqlm|eetq|(?:optimum-)?quanto|optimum"
    r"|compressed[-_]tensors|torchao|scipy|scikit-learn|fbgemm-gpu|vptq|auto-round|accelerate|kernels)(?![\w-])",
    re.I,
)
# What pip calls a package whose modules have another name.
_BY_MODULE = {
    "auto_gptq": "auto-gptq", "awq": "autoawq", "compressed_tensors": "compressed-tensors", "megatron": "megatron-core",
    "pywt": "PyWavelets", "quanto": "optimum-quanto", "sklearn": "scikit-learn",
}  # fmt: skip


@rule("AD404", Severity.ERROR, explains=("AD5",))
def backend_missing(
    config: AdapterConfig,
    base: BaseConfig,
    environment: Environment | Missing,
    outcome: LoadOutcome | Missing,
) -> Iterator[Hit]:
    """A package that this base or adapter needs is not installed.

    ## Why it matters
    A quantised base cannot be run without the library of its method, and some adapters need one to be set up.

    ## Common causes
    The environment was made for unquantised models; the package has no build for this system.

    ## Fix
    Install the package that the message names, or use an unquantised copy of the base.
    """
    installed = environment.packages if isinstance(environment, Environment) else {}
    if isinstance(outcome, Missing):
        loftq = config.peft_type == "LORA" and config.get("init_lora_weights") == "loftq" and config.get("loftq_config")
        if loftq and installed.get("peft") and not installed.get("bitsandbytes"):
            yield Hit("PEFT needs bitsandbytes for `init_lora_weights` 'loftq', and it is not installed", fix=_LOFTQ)
        return
    refusal = outcome.refusal
    if refusal is None:
        return
    name = _needed(refusal)
    method = base.quantization_method or ""
    backends = _BACKENDS.get(method, ())
    if name == "megatron-core" and config.get("megatron_config"):
        return  # the config asks for it: another rule's matter
    if name:
        loftq = name == "bitsandbytes" and config.get("init_lora_weights") == "loftq"
        yield Hit(
            f"the package {name!r} is needed and cannot be used: {refusal.line[:200]}",
            fix=_LOFTQ if loftq else f"pip install {name}",
        )
    lacking = bool(backends and installed) and not any(installed.get(one) for one in backends)
    if not name and lacking and outcome.extent == "full" and refusal.stage.startswith("base"):
        yield Hit(
            f"the base is quantised with {method}, and {' or '.join(backends)} is not installed",
            where="config.json",
            fix=f"pip install {backends[0]}",
        )


def _needed(refusal: Refusal) -> str | None:
    """The package that an exception says is lacking, by the name that pip knows."""
    if refusal.error not in _ERRORS:
        return None
    module = _NO_MODULE.search(refusal.message)
    if module:
        return _BY_MODULE.get(module[1], module[1])
    if not _LACKING.search(refusal.message):
        return None
    found = _PIP.search(refusal.message)
    named = found[1] if found else next(iter(_NAMED.findall(refusal.message)), None)
    return _BY_MODULE.get(named.lower(), named) if named else None
