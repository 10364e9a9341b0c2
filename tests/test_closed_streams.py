"""The command line where a stream is closed, as a daemon leaves it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import patient
import pytest


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_changes_no_exit_code(closed: str, tmp_path: Path) -> None:
    base, adapter = patient.write(tmp_path)
    command = f'"{sys.executable}" -m adapter_doctor check "{base}" "{adapter}" --load no --offline {closed}'
    explain = f'"{sys.executable}" -m adapter_doctor explain - {closed}'

    assert subprocess.run(command, shell=True, capture_output=True, check=False).returncode == 0
    assert subprocess.run(explain, shell=True, capture_output=True, input=b"", check=False).returncode == 2
