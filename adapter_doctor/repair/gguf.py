"""A GGUF file by llama.cpp's own converter, where that is installed; nothing of the format is written here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from adapter_doctor.repair.plan import CannotMend

CONVERTER = "convert_lora_to_gguf.py"
FOLDER = "LLAMA_CPP"
"""The environment variable that names llama.cpp's folder, where its scripts are not on the PATH."""
_MOST_SAID = 400


def converter() -> Path | None:
    """The converter's script: in the folder that ``LLAMA_CPP`` names, or on the PATH; None where it is not installed."""
    folder = os.environ.get(FOLDER)
    if folder and (Path(folder) / CONVERTER).is_file():
        return Path(folder) / CONVERTER
    found = shutil.which(CONVERTER)
    return Path(found) if found else None


def convert(adapter: Path, base: Path, output: Path, *, python: str | None, time_limit: float) -> None:
    """Write ``adapter`` (a PEFT folder) as the GGUF file ``output``; of ``base`` the config is read.

    Raises:
        CannotMend: the converter is not installed, or refuses; its last words are in the message.
    """
    script = converter()
    if script is None:
        raise CannotMend(f"llama.cpp's {CONVERTER} is not on the PATH, and {FOLDER} names no folder that holds it")
    command = [python or sys.executable, str(script), "--base", str(base), "--outfile", str(output), str(adapter)]
    try:
        most = min(time_limit, threading.TIMEOUT_MAX)
        done = subprocess.run(command, capture_output=True, text=True, timeout=most, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise CannotMend(f"{CONVERTER} did not end within {time_limit:g} seconds") from None
    except OSError as error:
        raise CannotMend(f"{CONVERTER} could not be run: {error}") from None
    if done.returncode or not output.is_file():
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise CannotMend(f"{CONVERTER} refused: {' '.join(said[-2:])[:_MOST_SAID]}")
