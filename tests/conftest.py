"""What all tests share: no network, no user's cache or token, and a terminal of known width without colours."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from typing import Any

import pytest

_UNSET = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE", "TRANSFORMERS_CACHE", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE",
    "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "CI", "PYTHONWARNINGS", "TERMINAL_WIDTH", "TTY_COMPATIBLE",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew from what is rendered")


def pytest_configure(config: pytest.Config) -> None:
    # Before anything is collected: huggingface_hub reads these variables when it is imported, and only then.
    home = tempfile.mkdtemp(prefix="adapter-doctor-tests-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    for name in _UNSET:
        os.environ.pop(name, None)
    os.environ |= {
        "HF_HOME": home, "HF_TOKEN_PATH": f"{home}/token", "XDG_CACHE_HOME": home, "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "COLUMNS": "80", "LINES": "24", "TERM": "xterm", "LC_ALL": "C.UTF-8",
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this machine can be reached: a test that needs more fails on every machine, not only on the train."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests do not use the network, and this one connects to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
