"""Gather the versions of what a load needs, from package metadata, without importing any of it."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from importlib import metadata

from adapter_doctor.facts import Environment

PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "safetensors", "huggingface_hub", "bitsandbytes", "auto-gptq",
    "gptqmodel", "autoawq", "hqq", "aqlm", "eetq", "optimum", "compressed-tensors", "torchao", "quanto",
    "optimum-quanto", "scipy", "scikit-learn", "megatron-core", "fbgemm-gpu", "vptq", "auto-round",
)  # fmt: skip


def gather_environment() -> Environment:
    """The Python and package versions of this interpreter."""
    named = _folders()
    return Environment(
        platform.python_version(), {name: named.get(_plain(name)) or _version(name) for name in PACKAGES}
    )


def _folders() -> dict[str, str]:
    """Versions by the names of the metadata folders: reading the files in them takes most of a static check's time."""
    found: dict[str, str] = {}
    for place in sys.path:
        with contextlib.suppress(OSError):
            for entry in os.listdir(place or "."):  # noqa: PTH208 - names are all that is wanted
                if entry.endswith(".dist-info"):
                    name, _, version = entry.removesuffix(".dist-info").partition("-")
                    found.setdefault(_plain(name), version)
    return found


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError, OSError):  # not installed, or its metadata is damaged
        return None
