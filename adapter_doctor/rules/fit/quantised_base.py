"""AD316: quantised base."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import BaseConfig
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule

_MEANING = {
    "bitsandbytes": ("bitsandbytes", "merging into it rounds the merged weights again"),
    "gptq": ("gptqmodel and optimum", "PEFT cannot merge into it"), "awq": ("autoawq or gptqmodel", "PEFT cannot merge into it"),
    "fp8": ("a GPU with FP8", "PEFT adapts it only where its layers are plain Linear"),
    "compressed-tensors": ("compressed-tensors", "PEFT cannot merge into it"), "hqq": ("hqq", "merging dequantises and rounds again"),
    "aqlm": ("aqlm", "PEFT cannot merge into it"), "eetq": ("eetq", "PEFT cannot merge into it"),
    "torchao": ("torchao", "merging is supported for int8 only"), "mxfp4": ("kernels and triton", "dequantise it before merging"),
}  # fmt: skip


@rule("AD316", Severity.WARNING)
def quantised_base(base: BaseConfig) -> Iterator[Hit]:
    """The base is quantised.

    ## Why it matters
    Loading it needs its own package, the adapter meets rounded weights, and merging is lossy or refused.

    ## Common causes
    A ready-made 4-bit or 8-bit copy of the base was given.

    ## Fix
    To merge, load the unquantised base and merge there; to serve, keep the adapter apart.
    """
    method = base.quantization_method
    if method is not None:
        package, merging = _MEANING.get(method, ("its own package", "whether PEFT can merge into it is not known"))
        yield Hit(f"quantised with {method}: loading needs {package}; {merging}", where="config.json")
