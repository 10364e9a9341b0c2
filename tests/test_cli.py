"""The command line: exit codes, what goes to stdout and what to stderr, and text that a stranger chose."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner, Result

from adapter_doctor import __version__, doctor
from adapter_doctor.cli import application
from adapter_doctor.gather.environment import gather_environment
from adapter_doctor.rules import all_rules

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAIN = [sys.executable, "-c", "from adapter_doctor.cli import main; main()"]

BASE_RAW: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32, "max_position_embeddings": 32, "tie_word_embeddings": False,
}  # fmt: skip
ADAPTER_RAW: Mapping[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"],
    "base_model_name_or_path": "some/base", "revision": "0" * 40,
}  # fmt: skip


def base_state() -> dict[str, Any]:
    shapes = {"model.embed_tokens.weight": (32, 16), "model.norm.weight": (16,), "lm_head.weight": (32, 16)}
    for layer in range(2):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}self_attn.{one}_proj.weight": (16, 16) for one in "qkvo"}
        shapes |= {f"{at}mlp.{one}_proj.weight": (24, 16) for one in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (16, 24)}
        shapes |= {f"{at}{one}.weight": (16,) for one in ("input_layernorm", "post_attention_layernorm")}
    return {name: np.full(shape, 0.01, np.float32) for name, shape in shapes.items()}


def adapter_state(rank: int = 2, width: int = 16, front: str = "base_model.model.model.layers.") -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        f"{front}{layer}.self_attn.{leaf}_proj.lora_{half}.weight": random.normal(
            size=(rank, width) if half == "A" else (width, rank)
        ).astype(np.float32)
        for layer in range(2)
        for leaf in "qv"
        for half in "AB"
    }


def write_base(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**BASE_RAW, **changes}))
    safetensors.numpy.save_file(base_state(), folder / "model.safetensors")
    return folder


def write_adapter(folder: Path, state: Mapping[str, Any] | None = None, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps({**ADAPTER_RAW, **changes}))
    safetensors.numpy.save_file(dict(adapter_state() if state is None else state), folder / WEIGHTS)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("cli") / "base")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("cli") / "sound")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("cli") / "broken", target_modules=["query"])


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base without weights, of which a static check cannot tell the modules."""
    folder = write_base(tmp_path_factory.mktemp("cli") / "bare")
    (folder / "model.safetensors").unlink()
    return folder


def run(*arguments: object, **environment: str) -> Result:
    """In this process, with stdout and stderr apart."""
    return CliRunner(env=environment).invoke(application(), [str(one) for one in arguments])


def run_apart(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """As a user runs it, in a process of its own."""
    return subprocess.run(
        [*MAIN, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}, timeout=60
    )  # fmt: skip


def static(*arguments: object, **environment: str) -> Result:
    return run("check", *arguments, "--load", "no", "--no-cache", **environment)


# ------------------------------------------------------------------------------------------------------- exit codes


def test_healthy_pair_exits_with_0_and_says_compatible(base: Path, sound: Path) -> None:
    result = static(base, sound)

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("COMPATIBLE")
    assert not re.search("error|✗|!", result.stdout)


def test_broken_pair_exits_with_1_and_names_one_cause_and_its_fix(base: Path, broken: Path) -> None:
    result = static(base, broken)

    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout.startswith("INCOMPATIBLE")
    assert re.search(r"^✗ AD\d{3} [a-z-]+$", result.stdout, re.M)
    assert "fix: " in result.stdout


def test_pair_that_cannot_be_told_exits_with_3_and_says_why(bare: Path, sound: Path) -> None:
    result = static(bare, sound)

    assert (result.exit_code, result.stderr) == (3, "")
    assert result.stdout.startswith("UNDETERMINED")
    assert "not examined: " in result.stdout


@pytest.mark.parametrize("name", ["adapter", "base"])
def test_path_that_does_not_exist_is_a_report_and_no_wrong_usage(
    name: str, base: Path, sound: Path, tmp_path: Path
) -> None:
    pair = {"base": base, "adapter": sound, name: tmp_path / "nowhere"}
    result = static(pair["base"], pair["adapter"], "--format", "json")

    assert result.exit_code == 1
    assert [one["severity"] for one in json.loads(result.stdout)["findings"]][:1] == ["error"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe{\x00}\x00", b"{" * 10_000, b'{"peft_type": NaN}', b'{"r": 1e999}'],
    ids=repr,
)
def test_config_of_any_kind_ends_in_a_report(content: bytes, base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / CONFIG).write_bytes(content)
    result = static(base, adapter)

    assert (result.exit_code, result.exception is None or isinstance(result.exception, SystemExit)) == (1, True)


def test_file_for_a_folder_ends_in_a_report(base: Path, sound: Path) -> None:
    assert (static(base, sound / WEIGHTS).exit_code, static(base / "config.json", sound).exit_code) == (1, 1)


def test_warnings_count_only_when_they_are_asked_to(base: Path, tmp_path: Path) -> None:
    state = adapter_state()
    random_key = next(key for key in state if "lora_B" in key)
    state[random_key] = np.zeros_like(state[random_key])
    adapter = write_adapter(tmp_path / "adapter", state)
    findings = json.loads(static(base, adapter, "--format", "json").stdout)["findings"]
    assert [one["severity"] for one in findings] == ["warning"]

    assert static(base, adapter).exit_code == 0
    assert static(base, adapter, "--fail-on", "warning").exit_code == 1


def test_notes_and_nothing_never_count(base: Path, sound: Path, tmp_path: Path) -> None:
    noted = write_adapter(tmp_path / "adapter", revision=None)

    assert (
        static(base, sound, "--fail-on", "warning").exit_code,
        static(base, noted, "--fail-on", "warning").exit_code,
    ) == (0, 0)


def test_base_may_be_left_to_the_adapter(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", base_model_name_or_path=str(base))

    assert static(adapter).exit_code == 0


def test_ignored_rules_do_not_decide_and_what_was_not_selected_is_never_called_compatible(
    base: Path, broken: Path
) -> None:
    found = json.loads(static(base, broken, "--format", "json").stdout)
    codes = sorted({one["code"] for one in found["findings"] if one["severity"] == "error"})
    ignored = [part for code in codes for part in ("--ignore", code)]

    assert static(base, broken, *ignored).exit_code == 0
    left = static(base, broken, "--select", "AD115")
    assert (left.exit_code, "not asked for (--select)" in left.stdout) == (3, True)
    assert static(base, broken, "--select", codes[0]).exit_code == 1


# ------------------------------------------------------------------------------------------------------ wrong usage


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param(["--load", "half"], "try: --load skeleton | full | no", id="load"),
        pytest.param(["--format", "yaml"], "try: --format text | json", id="format"),
        pytest.param(["--fail-on", "note"], "try: --fail-on error | warning", id="fail-on"),
        pytest.param(["--run", "--load", "no"], "try: add --load full", id="run without weights"),
        pytest.param(["--select", "ZZ9"], "try: see `adapter-doctor rules`", id="select"),
        pytest.param(["--ignore", "AD9999"], "try: see `adapter-doctor rules`", id="ignore"),
        pytest.param(["--load", "no", "--time-limit", "0"], "expected more than 0", id="no time"),
        pytest.param(["--load", "no", "--time-limit", "-3"], "expected more than 0", id="negative time"),
        pytest.param(["--load", "no", "--time-limit", "nan"], "time limit", id="no number"),
        pytest.param(["--load", "no", "--time-limit", "soon"], "is not a valid", id="no time at all"),
        pytest.param(["--no-such-option"], "--no-such-option", id="unknown option"),
        pytest.param(["one", "too", "many"], "unexpected extra argument", id="too many"),
    ],
)
def test_wrong_option_exits_with_2_and_says_what_to_type(
    options: list[str], says: str, base: Path, sound: Path
) -> None:
    result = run("check", base, sound, *options)

    assert (result.exit_code, result.stdout) == (2, "")
    assert says in " ".join(re.sub("[│╭╰─╮╯]", " ", result.stderr).split())


@pytest.mark.parametrize("arguments", [["check"], ["no-such-command"], ["explain"], ["--no-such-option"]], ids=" ".join)
def test_incomplete_command_exits_with_2(arguments: list[str]) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["chek", "a", "b"], "adapter-doctor check a b"),
        (["./base", "me/my lora"], "adapter-doctor check ./base 'me/my lora'"),
        (["me/my-lora"], "adapter-doctor inspect me/my-lora"),
        (["ad211"], "adapter-doctor explain AD211"),
        (["diagnose"], "adapter-doctor --help"),
    ],
)
def test_word_that_is_no_command_is_answered_with_the_one_that_is_meant(arguments: list[str], meant: str) -> None:
    result = run(*arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == f"  try: {meant}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: str) -> None:
    script = run("--show-completion", shell)
    assert (script.exit_code, "adapter-doctor" in script.stdout) == (0, True)
    if shell != "bash":
        return
    for words, offered in (("adapter-doctor ch", "check"), ("adapter-doctor check --fo", "--format")):
        completed = run(
            _ADAPTER_DOCTOR_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")),
        )  # fmt: skip
        assert offered in completed.stdout.split()


@pytest.mark.parametrize("reference", ["", "  ", "https://example.com/a/b", "hf://datasets/a/b", "a\x00b"], ids=repr)
def test_reference_that_can_mean_nothing_exits_with_2(reference: str, base: Path, sound: Path) -> None:
    for pair in ((reference, sound), (base, reference)):
        result = static(*pair)
        assert (result.exit_code, result.stdout, "error: " in result.stderr) == (2, "", True)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["check", "--help"], ["rules", "--help"], ["--version"]], ids=" ".join
)
def test_help_and_version_exit_with_0(arguments: list[str]) -> None:
    result = run(*arguments)

    assert (result.exit_code, result.stderr) == (0, "")
    assert (__version__ if "--version" in arguments else "Usage") in result.stdout


@pytest.mark.parametrize("form", ["text", "json", "html", "sarif", "github", "junit", "markdown"])
def test_token_in_a_config_is_shown_in_no_report(base: Path, tmp_path: Path, form: str) -> None:
    secret = "hf_" + "aB3" * 11
    adapter = write_adapter(
        tmp_path / "adapter",
        base_model_name_or_path=f"https://user:{secret}@huggingface.co/a/b",
        target_modules=[f"/home/{secret}/x"],
        revision=secret,
    )

    for arguments in ([base, adapter], [adapter]):
        result = static(*arguments, "--format", form, "--offline")
        assert result.exit_code in (1, 3)
        assert secret not in result.stdout + result.stderr
    assert secret not in run("inspect", adapter).stdout + run("inspect", adapter, "--format", "json").stdout


@pytest.mark.parametrize(("redirection", "code"), [("> /dev/full", 2), (">&-", 0), (">&- 2>&-", 0), ("| true", 0)])
def test_output_that_cannot_be_written_is_no_crash(base: Path, sound: Path, redirection: str, code: int) -> None:
    command = shlex.join([*MAIN, "check", str(base), str(sound), "--load", "no", "--no-cache"])
    done = subprocess.run(["bash", "-c", f"{command} {redirection}"], capture_output=True, text=True)

    assert done.returncode == code
    assert done.stderr == ("error: the output cannot be written: the disk is full\n" if code else "")


def test_unlimited_time_is_no_crash(base: Path, sound: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 0.5\n")
    slow.chmod(0o755)

    result = run("check", base, sound, "--time-limit", "inf", "--python", slow)

    assert result.exit_code in (2, 3)
    assert isinstance(result.exception, SystemExit)


# ------------------------------------------------------------------------------------------------------------- JSON

FIELDS = {
    "schema", "tool", "verdict", "examined", "base", "adapter", "environment", "landed", "cause", "findings", "unknown", "crashed",
}  # fmt: skip
FINDING = {"code", "name", "severity", "message", "where", "count", "examples", "fix", "repairable", "consequence_of"}


@pytest.mark.parametrize("which", ["sound", "broken", "bare"])
def test_json_has_the_fields_of_schema_1(which: str, base: Path, bare: Path, sound: Path, broken: Path) -> None:
    result = static(bare if which == "bare" else base, broken if which == "broken" else sound, "--format", "json")
    report = json.loads(result.stdout)

    assert set(report) >= FIELDS
    assert (report["schema"], report["tool"]) == (1, {"name": "adapter-doctor", "version": __version__})
    assert report["verdict"] == {"sound": "compatible", "broken": "incompatible", "bare": "undetermined"}[which]
    assert report["examined"] == "static"
    assert set(report["base"]) >= {"reference", "revision", "model_type", "quantization"}
    assert set(report["adapter"]) >= {"reference", "revision", "peft_type", "rank", "tensors", "parameters"}
    assert set(report["environment"]) >= {"python", "torch", "transformers", "peft"}
    assert (report["adapter"]["rank"], report["adapter"]["tensors"], report["adapter"]["parameters"]) == (2, 8, 256)
    assert report["landed"] is None
    assert all(set(one) >= FINDING for one in report["findings"])
    assert all({"code", "name", "why"} <= set(one) for one in report["unknown"])
    assert report["crashed"] == []
    errors = [one for one in report["findings"] if one["severity"] == "error"]
    if which == "broken":
        assert report["cause"] == {"code": errors[0]["code"], "name": errors[0]["name"]}
        assert report["findings"][0] == errors[0]
        assert all(one["consequence_of"] in (None, *(other["code"] for other in errors)) for one in errors)
    else:
        assert (report["cause"], errors) == (None, [])


def test_findings_are_in_the_order_in_which_they_are_to_be_read(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", target_modules=["query", "q_proj"], revision=None)
    found = json.loads(static(base, adapter, "--format", "json").stdout)["findings"]
    ranks = [{"error": 0, "warning": 1, "note": 2}[one["severity"]] for one in found]

    assert ranks == sorted(ranks)
    assert len(set(ranks)) > 1


@pytest.mark.parametrize("form", ["json", "text"])
def test_same_input_gives_the_same_bytes(form: str, base: Path, broken: Path, tmp_path: Path) -> None:
    first, second = (
        run_apart("check", base, broken, "--load", "no", "--format", form, PYTHONHASHSEED=seed, cwd=place)
        for seed, place in (("1", tmp_path), ("2", base))
    )

    assert (first.stdout, first.stderr) == (second.stdout, "")
    assert second.stderr == ""


def test_stdout_carries_one_json_object_and_nothing_else(base: Path, sound: Path) -> None:
    done = run_apart("check", base, sound, "--load", "no", "--format", "json")
    report, end = json.JSONDecoder().raw_decode(done.stdout)

    assert (done.returncode, done.stderr, report["verdict"]) == (0, "", "compatible")
    assert done.stdout[end:] == "\n"
    assert done.stdout.isascii()


def test_report_holds_neither_clock_nor_folders_that_were_not_named(base: Path, sound: Path) -> None:
    done = run_apart(
        "check", "base", "../sound-link", "--load", "no", "--no-cache", "--format", "json", cwd=_beside(base, sound)
    )

    assert done.returncode == 0, done.stdout
    assert str(base.parent) not in done.stdout
    assert str(sound.parent) not in done.stdout
    assert not re.search(r"20\d\d-\d\d", done.stdout)
    assert json.loads(done.stdout)["adapter"]["reference"] == "../sound-link"


def _beside(base: Path, sound: Path) -> Path:
    link = base.parent.parent / "sound-link"
    if not link.is_symlink():
        link.symlink_to(sound, target_is_directory=True)
    return base.parent


def test_report_goes_to_the_file_that_was_asked_for(base: Path, broken: Path, tmp_path: Path) -> None:
    result = static(base, broken, "--format", "json", "--output", tmp_path / "report.json")

    assert (result.exit_code, result.stdout) == (1, "")
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "incompatible"


@pytest.mark.parametrize("place", [".", "nowhere/report.json", "file/report.json"])
def test_report_that_cannot_be_written_exits_with_2(place: str, base: Path, sound: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = static(base, sound, "--output", tmp_path / place)

    assert (result.exit_code, result.stdout) == (2, "")
    assert "cannot be written" in result.stderr


# ------------------------------------------------------------------------------------------------------- terminals


def in_terminal(*arguments: object, columns: int = 80, **environment: str) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*MAIN, *map(str, arguments)], stdout=theirs, stderr=subprocess.DEVNULL, env={**os.environ, "COLUMNS": str(columns), **environment}
    )  # fmt: skip
    os.close(theirs)
    out = b""
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError:  # Linux ends a terminal so
            break
        if not block:
            break
        out += block
    process.wait(30)
    os.close(ours)
    return out.decode().replace("\r\n", "\n")


def test_colours_are_on_in_a_terminal_and_nowhere_else(base: Path, broken: Path) -> None:
    arguments = ("check", base, broken, "--load", "no")
    coloured = in_terminal(*arguments)

    assert "\x1b[1;31m" in coloured
    plain = run_apart(*arguments).stdout
    assert "\x1b" not in plain
    bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in bare.splitlines()] == plain.splitlines()


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_colours_are_off_where_they_are_not_wanted(environment: dict[str, Any], base: Path, broken: Path) -> None:
    assert "\x1b" not in in_terminal("check", base, broken, "--load", "no", **environment)


@pytest.mark.parametrize("command", [["rules"], ["explain", "AD211"], ["check", "--help"]], ids=" ".join)
def test_no_color_holds_for_every_command(command: list[str]) -> None:
    assert "\x1b" not in in_terminal(*command, NO_COLOR="1")


@pytest.mark.parametrize("which", ["sound", "broken", "bare"])
@pytest.mark.parametrize("columns", [40, 57, 200])
def test_no_line_is_wider_than_the_terminal(
    columns: int, which: str, base: Path, bare: Path, sound: Path, broken: Path
) -> None:
    pair = (bare if which == "bare" else base, broken if which == "broken" else sound)
    for more in ((), ("--verbose",)):
        lines = static(*pair, *more, COLUMNS=str(columns)).stdout.splitlines()
        assert max(map(len, lines)) <= columns, max(lines, key=len)


def test_no_line_is_wider_than_the_terminal_in_scripts_of_double_width(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", target_modules=["漢字" * 30, "q_proj"], task_type="日本語" * 20)
    for line in static(base, adapter, COLUMNS="40").stdout.splitlines():
        assert sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in line) <= 40, line


def test_text_says_the_same_in_a_narrow_terminal(base: Path, broken: Path) -> None:
    narrow, wide = (static(base, broken, "--verbose", COLUMNS=columns).stdout for columns in ("45", "500"))

    assert "".join(narrow.split()) == "".join(wide.split())


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=str,
)  # fmt: skip
def test_terminal_without_unicode_gets_a_report_and_no_traceback(
    environment: dict[str, str], base: Path, broken: Path
) -> None:
    done = subprocess.run(
        [*MAIN, "check", str(base), str(broken), "--load", "no"], capture_output=True, env={**os.environ, **environment}, timeout=60
    )  # fmt: skip

    assert b"Traceback" not in done.stderr
    assert done.returncode == 1
    assert b"INCOMPATIBLE" in done.stdout


# ------------------------------------------------------------------------------------------------ text of strangers

HOSTILE = [
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b[2J\x1b[H", "\x9b31m", "\x9d0;t\x9c", "a\rb", "a\bb", "a\x00b", "\x7f", "\u202eright", "\u2066x\u2069",
    "\u200bzero", "\ufeffbom", "\u2028line", "\ud800", "\U000e0041tag", "x\nVERDICT: COMPATIBLE",
]  # fmt: skip
MARKUP = "[bold red]shout[/] :smile: [link=https://example.com]here[/link] [/]"


def assert_tame(text: str) -> None:
    for sign in text.replace("\n", ""):
        assert sign.isprintable(), f"{sign!r} in {text[max(0, text.index(sign) - 40) : text.index(sign) + 40]!r}"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The versions of what is installed, which take most of the time of a static check, are looked up once."""
    monkeypatch.setattr(doctor, "gather_environment", cache(gather_environment))


def hostile_adapters(folder: Path) -> Iterable[Path]:
    for number, text in enumerate([*HOSTILE, MARKUP]):
        yield write_adapter(folder / f"targets-{number}", target_modules=[text, "q_proj"])
        yield write_adapter(folder / f"type-{number}", peft_type=text)
        yield write_adapter(
            folder / f"many-{number}", target_modules=text, base_model_name_or_path=f"x/{text}", task_type=text, rank_pattern={text: 4},
            modules_to_save=[text], bias=text, auto_mapping={text: text}, revision=text, surprise={text: text},
        )  # fmt: skip
        if text != "\ud800":
            state = adapter_state(front=f"base_model.model.model.{text}.layers.")
            yield write_adapter(folder / f"keys-{number}", {**adapter_state(), **state})


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("form", ["text", "json"])
def test_no_escape_of_a_stranger_reaches_stdout(form: str, base: Path, tmp_path: Path) -> None:
    for adapter in hostile_adapters(tmp_path):
        result = static(base, adapter, "--format", form, *(["--verbose"] if form == "text" else []))

        assert result.exit_code in (0, 1, 3), adapter.name
        assert isinstance(result.exception, SystemExit | None), (adapter.name, result.exception)
        assert_tame(result.stdout)
        assert_tame(result.stderr)
        if form == "json":
            assert result.stdout.isascii()
            json.loads(result.stdout)


def test_no_escape_in_the_config_of_a_base_reaches_stdout(tmp_path: Path, sound: Path) -> None:
    for number, text in enumerate(HOSTILE):
        base = write_base(
            tmp_path / f"base-{number}",
            model_type=text,
            architectures=[text],
            quantization_config={"quant_method": text},
        )
        (base / CONFIG).write_text(json.dumps({"base_model_name_or_path": text}))
        result = static(base, sound, "--verbose")

        assert_tame(result.stdout)
        assert result.exit_code in (0, 1, 3)


def test_no_escape_in_the_name_of_a_file_reaches_stdout(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter\x1b[31m\u202e")
    (adapter / "\x1b[31mother.safetensors").write_bytes(b"x")
    (adapter / os.fsdecode(b"\xff\xfe.safetensors")).write_bytes(b"x")
    (adapter / "sub\x1b]0;t\x07").mkdir()
    write_adapter(adapter / "sub\x1b]0;t\x07")
    for extra in ((), ("--verbose",), ("--format", "json")):
        assert_tame(static(base, adapter, *extra).stdout)
    (adapter / CONFIG).unlink()
    assert_tame(static(base, adapter, "--verbose").stdout)


def test_what_a_user_types_is_shown_tame_in_an_error() -> None:
    for text in HOSTILE:
        if "\x00" not in text and text != "\ud800":
            for arguments in (
                ["check", "a", "b", "--load", text],
                ["explain", text],
                ["check", "a", "b", "--select", text],
            ):
                result = run(*arguments)
                assert result.exit_code == 2
                assert_tame(result.stderr)


def test_markup_is_shown_as_it_is_written(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", target_modules=[MARKUP])

    assert "".join(MARKUP.split()) in "".join(static(base, adapter, "--verbose", COLUMNS="300").stdout.split())


def test_usual_letters_of_any_language_are_shown_as_they_are(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", target_modules=["größe-日本-Ωμέγα"])

    assert "größe-日本-Ωμέγα" in static(base, adapter, "--verbose", COLUMNS="300").stdout


def test_message_of_a_megabyte_is_cut(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(
        tmp_path / "adapter", target_modules=["x" * 1_000_000], base_model_name_or_path="y" * 1_000_000
    )

    for form in ("text", "json"):
        assert len(static(base, adapter, "--format", form).stdout) < 100_000


# ---------------------------------------------------------------------------------------------- the world around it


def snapshot(*folders: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for folder in folders:
        for path in (folder, *sorted(folder.rglob("*"))):
            status = path.stat()
            found[str(path)] = (status.st_mode, status.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found


def test_nothing_is_written_next_to_what_is_examined(base: Path, sound: Path, broken: Path, tmp_path: Path) -> None:
    before = snapshot(base, sound, broken, tmp_path)
    for adapter in (sound, broken):
        for form in ("text", "json"):
            run_apart("check", base, adapter, "--load", "no", "--format", form, cwd=tmp_path)

    assert snapshot(base, sound, broken, tmp_path) == before


def test_folders_that_may_only_be_read_are_enough(tmp_path: Path) -> None:
    base, adapter = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter")
    for path in (*base.iterdir(), *adapter.iterdir(), base, adapter):
        path.chmod(0o555 if path.is_dir() else 0o444)
    result = static(base, adapter)
    for folder in (base, adapter):
        folder.chmod(stat.S_IRWXU)

    assert result.exit_code == 0


@pytest.mark.parametrize("command", ["rules", "check"])
def test_reader_that_leaves_ends_the_command_quietly(command: str, base: Path, sound: Path) -> None:
    """The code is what a shell expects of a closed pipe, and none that means a verdict."""
    arguments = (
        ["rules"] if command == "rules" else ["check", str(base), str(sound), "--load", "no", "--format", "json"]
    )
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([*MAIN, *arguments], stdout=theirs, stderr=subprocess.PIPE, timeout=60)
    os.close(theirs)

    assert (done.returncode, done.stderr) == (141, b"")


def heeds_interrupts() -> None:
    """A shell starts what runs in its background with interrupts ignored, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupt_ends_the_command_quietly_and_its_child_too(base: Path, sound: Path, tmp_path: Path) -> None:
    sleeper = tmp_path / "python"
    sleeper.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    sleeper.chmod(0o755)
    process = subprocess.Popen(
        [*MAIN, "check", str(base), str(sound), "--python", str(sleeper)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=heeds_interrupts,
    )  # fmt: skip
    for _ in range(300):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)

    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_load_of_a_healthy_pair_is_silent_on_stderr_and_proven(base: Path, sound: Path) -> None:
    done = run_apart("check", base, sound, "--format", "json")
    report = json.loads(done.stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert (report["verdict"], report["examined"], report["unknown"]) == ("compatible", "loaded", [
        one for one in report["unknown"] if one["waived"]
    ])  # fmt: skip
    assert report["landed"] == {"in_file": 8, "landed": 8, "ignored": 0, "left_at_init": 0, "overwritten_base": 0}


# -------------------------------------------------------------------------------------------------- rules, explain


def test_rules_are_listed_one_in_a_line() -> None:
    result = run("rules")

    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split()[0] for line in result.stdout.splitlines()] == [rule.code for rule in all_rules()]


@pytest.mark.parametrize("asked", ["AD211", "ad211", "rank-mismatch", "Rank-Mismatch"])
def test_rule_is_explained_by_code_or_name(asked: str) -> None:
    result = run("explain", asked)

    assert (result.exit_code, result.stderr) == (0, "")
    assert "AD211" in result.stdout
    assert all(heading in result.stdout for heading in ("Why it matters", "Common causes", "Fix"))


@pytest.mark.parametrize(
    ("asked", "hint"),
    [("nonsense", "adapter-doctor rules"), ("AD2111", "adapter-doctor explain AD21"), ("rank-mismach", "adapter-doctor explain rank-mismatch"),
     ("", "adapter-doctor rules")],
)  # fmt: skip
def test_rule_that_does_not_exist_is_not_explained(asked: str, hint: str) -> None:
    result = run("explain", asked)

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"try: {hint}" in result.stderr


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.name)
def test_every_rule_can_be_explained(rule: Any) -> None:
    assert run("explain", rule.name).stdout == run("explain", rule.code).stdout != ""
