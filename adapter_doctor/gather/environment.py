"""Gather the versions of what a load needs, from package metadata, without importing any of it."""

from __future__ import annotations

import platform
from importlib import metadata

from adapter_doctor.facts import Environment

PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "safetensors", "huggingface_hub", "bitsandbytes", "auto-gptq",
    "gptqmodel", "autoawq", "hqq", "aqlm", "eetq", "optimum", "compressed-tensors", "torchao", "quanto",
    "optimum-quanto", "scipy", "scikit-learn", "megatron-core", "fbgemm-gpu", "vptq", "auto-round",
)  # fmt: skip


def gather_environment() -> Environment:
    """The Python and package versions of this interpreter."""
    return Environment(platform.python_version(), {name: _version(name) for name in PACKAGES})


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError, OSError):  # not installed, or its metadata is damaged
        return None
