"""Gather the versions of what a load needs, from package metadata, without importing any of it."""

from __future__ import annotations

import contextlib
import os
import platform
import sys

from adapter_doctor.facts import Environment

PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "safetensors", "huggingface_hub", "bitsandbytes", "auto-gptq",
    "gptqmodel", "autoawq", "hqq", "aqlm", "eetq", "optimum", "compressed-tensors", "torchao", "quanto",
    "optimum-quanto", "scipy", "scikit-learn", "megatron-core", "fbgemm-gpu", "vptq", "auto-round",
)  # fmt: skip


def gather_environment() -> Environment:
    """The Python and package versions of this interpreter."""
    named = _folders()
    return Environment(platform.python_version(), {name: named.get(_plain(name)) for name in PACKAGES})


def _folders() -> dict[str, str]:
    """Versions by the names of the metadata folders, the first on the path winning as it does for an import.

    `importlib.metadata` opens and parses what lies in them, which takes longer than the rest of a static check. It is
    asked where the name of a folder holds no version, as of a source tree that is installed as it lies.
    """
    found: dict[str, str] = {}
    for place in sys.path:
        with contextlib.suppress(OSError):
            for entry in os.listdir(place or "."):  # noqa: PTH208 - names are all that is wanted
                if entry.endswith((".dist-info", ".egg-info")):
                    name, _, version = entry.rpartition(".")[0].partition("-")
                    version = version.partition("-")[0] or _recorded(name)
                    if version:
                        found.setdefault(_plain(name), version)
    return found


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _recorded(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError, OSError):  # its metadata is damaged
        return ""
