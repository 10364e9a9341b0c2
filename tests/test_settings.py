"""Settings of a project and its baseline: what they change, what they refuse, and that the ready ones load."""

from __future__ import annotations

import json
from pathlib import Path

import patient
import pytest
from typer.testing import CliRunner, Result

from adapter_doctor.cli import application
from adapter_doctor.errors import DoctorError
from adapter_doctor.rules import all_rules
from adapter_doctor.settings import Settings, project_settings, read_baseline, read_settings

ROOT = Path(__file__).resolve().parent.parent
READY = sorted((ROOT / "configs").glob("*.toml"))


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A base and an adapter whose config misses `lora_alpha` and names an unknown target beside the right ones."""
    base, adapter = patient.write(tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    del config["lora_alpha"]
    config["target_modules"].append("query")
    config["base_model_name_or_path"] = "base"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    return base, adapter


def check(*arguments: object) -> Result:
    return CliRunner().invoke(application(), ["check", "base", "adapter", "--no-cache", *map(str, arguments)])


def codes(result: Result) -> list[str]:
    return [one["code"] for one in json.loads(result.stdout)["findings"]]


def test_settings_of_pyproject_hold_where_the_command_says_nothing(pair: tuple[Path, Path]) -> None:
    assert check("--load", "no").exit_code == 0
    (pair[0].parent / "pyproject.toml").write_text(
        '[tool.adapter-doctor]\nload = "no"\nfail-on = "warning"\n[tool.adapter-doctor.ignore]\nAD119 = "it is 8"\n'
    )
    result = check("--format", "json")

    assert (result.exit_code, codes(result)[0]) == (1, "AD302")
    assert "AD119" not in codes(result)
    assert json.loads(result.stdout)["suppressed"][0]["reason"] == "it is 8"
    assert check("--fail-on", "error").exit_code == 0


def test_what_is_ignored_is_counted_and_shown_with_its_reason(pair: tuple[Path, Path]) -> None:
    (pair[0].parent / "own.toml").write_text('load = "no"\nignore = { AD119 = "it is 8", AD3 = "an old name" }\n')
    result = check("--config", "own.toml", "--fail-on", "warning")

    assert result.exit_code == 0
    assert "ignored: AD119 scaling-defaulted, 1 finding: it is 8" in result.stdout
    assert "ignored: AD302 target-matches-nothing, 1 finding: an old name" in result.stdout


def test_ignored_error_that_could_not_be_examined_is_told_as_left_out(pair: tuple[Path, Path]) -> None:
    (pair[0] / "model.safetensors").unlink()
    (pair[0].parent / "own.toml").write_text('load = "no"\nignore = { AD3 = "no base here", AD2 = "x", AD1 = "y" }\n')
    result = check("--config", "own.toml")

    assert "ignored: no base here" in " ".join(result.stdout.split())


def test_overrides_are_for_the_adapters_that_they_name(pair: tuple[Path, Path]) -> None:
    table = 'load = "no"\nfail-on = "warning"\n[[overrides]]\npath = "{}"\nfail-on = "error"\nignore.AD119 = "x"\n'
    (pair[0].parent / "this.toml").write_text(table.format("adap*"))
    (pair[0].parent / "other.toml").write_text(table.format("other/*"))

    assert check("--config", "this.toml").exit_code == 0
    assert check("--config", "other.toml").exit_code == 1


def test_later_override_wins_and_reasons_add_up() -> None:
    first = ("a/*", Settings(load="no", ignore={"AD1": "one"}))
    second = ("a/b", Settings(load="full", fail_on="warning", ignore={"AD2": "two"}))
    whole = Settings(overrides=(first, second))

    assert whole.of("./a/b/") == Settings("full", "warning", (), {"AD1": "one", "AD2": "two"})
    assert whole.of("a/c") == Settings("no", None, (), {"AD1": "one"})
    assert whole.of("c") == Settings()


def test_baseline_accepts_what_was_there_and_nothing_new(pair: tuple[Path, Path]) -> None:
    assert check("--load", "no", "--format", "json", "--output", "today.json").exit_code == 0
    strict = ("--load", "no", "--fail-on", "warning", "--baseline", "today.json")
    accepted = check(*strict)
    assert accepted.exit_code == 0
    assert "it is in the baseline" in accepted.stdout

    assert check(*strict, "--format", "json", "--output", "again.json").exit_code == 0
    assert read_baseline(Path("again.json")) == read_baseline(Path("today.json"))

    config = json.loads((pair[1] / "adapter_config.json").read_text())
    (pair[1] / "adapter_config.json").write_text(json.dumps({**config, "r": 4}))
    worse = check(*strict, "--format", "json")
    assert worse.exit_code == 1
    assert "AD119" not in codes(worse)
    assert json.loads(worse.stdout)["verdict"] == "incompatible"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("load = 'half'", "load is 'half'"),
        ("fail_on = 'error'", "there is no setting 'fail_on'\n  try: fail-on"),
        ("ignore = ['AD119']", "expected codes with a reason each"),
        ("ignore = { AD119 = '' }", "expected codes with a reason each"),
        ("ignore = { AD999 = 'why' }", "no rule has a code that begins with 'AD999'"),
        ("select = 'AD1'", "expected a list of codes"),
        ("[[overrides]]\nload = 'no'", "an override says no path"),
        ("[[overrides]]\npath = 'a'\n[[overrides.overrides]]\npath = 'b'", "there is no setting 'overrides'"),
        ("load = ", "are no TOML"),
        ("tool.adapter-doctor = 3", "is no table"),
    ],
)
def test_settings_that_cannot_be_meant_exit_with_2(text: str, says: str, pair: tuple[Path, Path]) -> None:
    (pair[0].parent / "own.toml").write_text(text)
    result = check("--config", "own.toml", "--load", "no")

    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr


@pytest.mark.parametrize("option", ["--config", "--baseline"])
@pytest.mark.parametrize("content", [None, b"", b"\xff", b"[1]", b'{"schema": 2}', b'{"schema": 1, "findings": [3]}'])
def test_file_that_is_none_exits_with_2(option: str, content: bytes | None, pair: tuple[Path, Path]) -> None:
    if content is not None:
        (pair[0].parent / "file").write_bytes(content)
    result = check(option, "file", "--load", "no")

    assert result.exit_code == (0 if (option, content) == ("--config", b"") else 2)
    assert isinstance(result.exception, SystemExit | None)


def test_pyproject_of_other_tools_is_left_alone(tmp_path: Path) -> None:
    assert project_settings(tmp_path) == Settings()
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nload = 3\n")
    assert project_settings(tmp_path / "deep" / "down") == Settings()
    (tmp_path / "pyproject.toml").write_text("not toml")
    assert project_settings(tmp_path) == Settings()
    (tmp_path / "pyproject.toml").write_text("[tool.adapter-doctor]\nload = 3\n")
    with pytest.raises(DoctorError, match="load is 3"):
        project_settings(tmp_path)


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_ready_settings_load_and_name_rules_that_exist(path: Path) -> None:
    settings = read_settings(path)

    assert settings != Settings()
    for own in (settings, *(one for _, one in settings.overrides)):
        assert all(any(rule.named(entry) for rule in all_rules()) for entry in (*own.select, *own.ignore))
        assert all(reason for reason in own.ignore.values())
    assert path.read_text().startswith("# "), "it says what it is for"
