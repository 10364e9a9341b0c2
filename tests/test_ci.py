"""The commit hook under the real pre-commit, the steps of the GitHub action, and shells."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import patient
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [str(one) for one in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def git(repository: Path, *arguments: str) -> None:
    done = run("git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments, cwd=repository)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def program(tmp_path: Path) -> str:
    """A PATH on which this tree's adapter-doctor is found, and no module of torch can be imported by it."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "torch.py").write_text("raise ImportError('no torch here')\n")
    script = place / "adapter-doctor"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(place)!r})\nfrom adapter_doctor.cli import main\nmain()\n"
    )
    script.chmod(0o755)
    return f"{place}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with twenty adapters whose base lies beside them, and the hook from a clone of its own."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", hooks)
    mine = tmp_path / "mine"
    mine.mkdir()
    adapter = patient.write(mine)[1]
    for number in range(20):
        folder = mine / "adapters" / f"lora-{number:02}"
        shutil.copytree(adapter, folder)
        change(folder, base_model_name_or_path="base")
    shutil.rmtree(adapter)
    for folder in (hooks, mine):
        git(folder, "init", "-q")
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", "first")
    head = run("git", "rev-parse", "HEAD", cwd=hooks).stdout.strip()
    hook = {"id": "adapter-doctor", "language": "system"}  # not installed from the network, as users have it
    settings = {"repos": [{"repo": str(hooks), "rev": head, "hooks": [hook]}]}
    (mine / ".pre-commit-config.yaml").write_text(yaml.safe_dump(settings))
    git(mine, "add", "-A")
    return mine


def change(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def pre_commit(repository: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    home = str(repository.parent / "pre-commit")
    return run(
        sys.executable, "-m", "pre_commit", "run", *arguments, cwd=repository, PATH=program, PRE_COMMIT_HOME=home
    )


def test_hook_passes_twenty_sound_adapters_in_time(repository: Path, program: str) -> None:
    pre_commit(repository, program, "--all-files")  # once, so that pre-commit has its clone
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = pre_commit(repository, program, "--all-files")
    after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert (done.returncode, "Passed" in done.stdout) == (0, True), done.stdout
    assert min(busy, took) < 5


def test_hook_fails_a_commit_with_a_broken_adapter_and_names_only_that(repository: Path, program: str) -> None:
    change(repository / "adapters" / "lora-07", target_modules=["query"])
    git(repository, "add", "-A")
    done = pre_commit(repository, program)

    assert done.returncode == 1
    assert "adapters/lora-07" in done.stdout
    assert "lora-06" not in done.stdout
    assert "✗ AD301 no-target-matches" in done.stdout


def test_hook_looks_at_adapters_of_the_commit_alone(repository: Path, program: str) -> None:
    change(repository / "adapters" / "lora-03", target_modules=["query"])
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "broken, and not looked at")
    (repository / "notes.txt").write_text("x")
    git(repository, "rm", "-q", "-r", "--cached", "adapters/lora-05")
    git(repository, "add", "notes.txt")
    done = pre_commit(repository, program)

    assert (done.returncode, "no files to check" in done.stdout) == (0, True), done.stdout


def test_base_that_is_not_here_is_said_and_fails_only_where_it_is_asked_to(repository: Path, program: str) -> None:
    folder = repository / "adapters" / "lora-00"
    change(folder, base_model_name_or_path="example/tiny-llama")
    lenient = run("adapter-doctor", "hook", folder / "adapter_config.json", cwd=repository, PATH=program)
    strict = run("adapter-doctor", "hook", folder, "--strict", cwd=repository, PATH=program)

    assert (lenient.returncode, "undetermined" in lenient.stdout, lenient.stderr) == (0, True, "")
    assert (strict.returncode, "UNDETERMINED" in strict.stdout) == (3, True)


def test_hook_goes_by_the_settings_for_each_path(repository: Path, program: str) -> None:
    change(repository / "adapters" / "lora-01", target_modules=["query"])
    (repository / "pyproject.toml").write_text(
        '[[tool.adapter-doctor.overrides]]\npath = "adapters/lora-01"\nignore = { AD = "kept as it is" }\n'
    )
    arguments = [repository / "adapters" / name for name in ("lora-01", "lora-02")]
    done = run("adapter-doctor", "hook", *arguments, cwd=repository, PATH=program)

    assert done.returncode == 0, done.stdout


# ----------------------------------------------------------------------------------------------------- the action


def step(name: str) -> dict[str, Any]:
    return next(one for one in ACTION["runs"]["steps"] if one.get("name") == name)


def act(folder: Path, program: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], str, str]:
    """Run the step that checks as the runner does: a script, its variables, files for output and summary."""
    inputs = {"LOAD": "no", "FAIL_ON": "error", "BASE": "", "CONFIG": "", "SARIF": "", "PYTHON": sys.executable}
    places = {"GITHUB_OUTPUT": str(folder / "output"), "GITHUB_STEP_SUMMARY": str(folder / "summary")}
    for place in places.values():
        Path(place).write_text("")
    script = step("Check the adapter")["run"]
    done = run(
        "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script,
        cwd=folder, PATH=program, **{**inputs, **places, **variables},
    )  # fmt: skip
    output, summary = (Path(place).read_text() for place in places.values())
    return done, output, summary


def test_action_annotates_sums_up_and_tells_its_verdict(tmp_path: Path, program: str) -> None:
    patient.write(tmp_path)
    done, output, summary = act(tmp_path, program, BASE="base", ADAPTER="adapter", SARIF="found.sarif")
    assert (done.returncode, output) == (0, "verdict=compatible\n"), done.stderr
    assert done.stdout.startswith("::notice title=adapter-doctor::adapter: compatible")
    assert summary.startswith("## ✅ compatible")
    assert json.loads((tmp_path / "found.sarif").read_text())["version"] == "2.1.0"

    change(tmp_path / "adapter", target_modules=["query"])
    done, output, summary = act(tmp_path, program, BASE="base", ADAPTER="adapter")
    assert (done.returncode, output) == (1, "verdict=incompatible\n")
    assert "::error file=adapter/adapter_config.json,title=AD301" in done.stdout
    assert summary.startswith("## ❌ incompatible")


def test_inputs_of_the_action_are_never_read_as_code(tmp_path: Path, program: str) -> None:
    done, _, _ = act(tmp_path, program, ADAPTER='$(touch pwned) "; touch pwned; "')

    assert done.returncode in (1, 2)
    assert not (tmp_path / "pwned").exists()
    assert all("${{" not in one["run"] for one in ACTION["runs"]["steps"] if "run" in one)


def test_example_workflow_uses_inputs_that_the_action_has() -> None:
    workflow = yaml.safe_load((ROOT / "configs" / "github-workflow.yml").read_text())
    (used,) = (one for one in workflow["jobs"]["check"]["steps"] if "adapter-doctor" in one.get("uses", ""))
    required = {name for name, one in ACTION["inputs"].items() if one.get("required")}

    assert required <= set(used["with"]) <= set(ACTION["inputs"])
    variables = {name for one in ACTION["runs"]["steps"] for name in one.get("env", {})}
    assert variables == {"ACTION", "ADAPTER", "BASE", "CONFIG", "FAIL_ON", "LOAD", "PYTHON", "SARIF"}
