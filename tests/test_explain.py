"""A text in which something failed: read whatever surrounds it, recognised or honestly not, and reported as a check is."""

from __future__ import annotations

import io
import json
import re
import textwrap
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import patient
import pytest
from typer.testing import CliRunner

import adapter_doctor
from adapter_doctor import DoctorError, explain
from adapter_doctor.cli import application
from adapter_doctor.cli.output import FORMATS
from adapter_doctor.explanation import explain_file
from adapter_doctor.report import Report
from adapter_doctor.rules import all_rules
from adapter_doctor.texts import forms, key_lists, reading, state_dict_error

RANK = "RuntimeError: Error(s) in loading state_dict for PeftModelForCausalLM:\n" + "".join(
    f"\tsize mismatch for base_model.model.model.layers.{layer}.self_attn.{name}.lora_{side}.default.weight: copying"
    f" a param with shape torch.Size({old}) from checkpoint, the shape in current model is torch.Size({new}).\n"
    for layer in range(4)
    for name, out in (("q_proj", 64), ("k_proj", 32), ("v_proj", 32), ("o_proj", 64))
    for side, old, new in (("A", [8, 64], [4, 64]), ("B", [out, 8], [out, 4]))
)
RENAMED = """\
RuntimeError: Error(s) in loading state_dict for MyModel:
\tMissing key(s) in state_dict: "layer1.weight", "layer1.bias".
\tUnexpected key(s) in state_dict: "fc.weight", "fc.bias".
"""
MADE_UP = """\
RuntimeError: Error(s) in loading state_dict for PeftModel:
\tMissing key(s) in state_dict: "lora_adapter.weight", "lora_adapter.bias".
\tUnexpected key(s) in state_dict: "base_model.weight".
\tsize mismatch for lora_adapter.weight: copying a param with shape torch.Size([64, 64]) from checkpoint, the shape in \
current model is torch.Size([32, 64]).
"""
OPTIMIZER = (
    "ValueError: optimizer state dict mismatch: loaded state dict contains parameters that are not in the current"
    " optimizer. Expected keys: ['param_groups', 'state']. Got: ['param_groups', 'state', 'extra_key']"
)


def cause(text: BaseException | str) -> str:
    report = explain(text)
    return report.cause.rule.code if report.cause else report.verdict


def run(*arguments: str, stdin: str | bytes | None = None) -> Any:
    return CliRunner().invoke(application(), arguments, input=stdin)


# ------------------------------------------------------------------------------------------------- three known texts


def test_renamed_layer_is_named_with_the_line_that_loads_it() -> None:
    report = explain(RENAMED)
    first, note = report.findings

    assert (report.verdict, report.exit_code, first.rule.name) == ("incompatible", 1, "state-dict-renamed")
    assert "`fc.` → `layer1.`" in first.hits[0].message
    assert "key.replace('fc.', 'layer1.', 1)" in (first.hits[0].fix or "")
    assert note.rule.name == "strict-false-would-hide"
    assert note.hits[0].message == (
        "`strict=False` would leave 2 of the model's tensors at random and drop 2 of the state dict's"
    )


def test_rank_of_an_adapter_of_ones_own_is_told_and_the_edited_text_doubted() -> None:
    report = explain(MADE_UP)

    assert report.cause is not None
    assert report.cause.rule.name == "state-dict-rank"
    assert "rank 64 in the state dict, 32 in the model" in report.cause.hits[0].message
    assert report.cause.hits[0].fix == "build the model with rank 64, as the checkpoint's config says"
    assert "the text was edited" in report.notes[0]


def test_optimizer_with_an_extra_key_is_told_what_to_pass() -> None:
    report = explain(OPTIMIZER)

    assert report.cause is not None
    assert report.cause.rule.name == "optimizer-refuses-state"
    assert "extra_key" in report.cause.hits[0].message
    assert '("state", "param_groups")' in (report.cause.hits[0].fix or "")
    assert "has no `strict`" in (report.cause.hits[0].fix or "")


# ------------------------------------------------------------------------------------------- what surrounds a message


def test_rank_mismatch_is_told_with_the_words_of_check() -> None:
    report = explain(RANK)
    finding = report.cause

    assert finding is not None
    assert finding.rule.code == "AD211"
    assert finding.hits[0].message == (
        "rank 8 in the file, 4 in the config, for 16 of 16 modules (k_proj, o_proj, q_proj, v_proj)"
    )
    assert report.verdict == "incompatible"


def _ranks(text: str) -> str:
    return "".join(f"[rank{rank}]: {line}\n" for line in text.splitlines() for rank in range(4))


def _boxed(text: str) -> str:
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, 76, break_long_words=True)]
    return "╭─ Traceback ─╮\n" + "".join(f"│ {line:<76} │\n" for line in lines) + "╰─────╯\n"


SURROUNDINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "ansi colours": lambda text: re.sub(r"(\w+)", "\x1b[38;5;208m\\1\x1b[0m", text),
    "wrapped at 80 columns": lambda text: "\n".join(
        line[at : at + 80] for line in text.splitlines() for at in range(0, len(line), 80)
    ),
    "four ranks through each other": _ranks,
    "a box of rich": _boxed,
    "timestamps": lambda text: "".join(f"2026-01-02 03:04:05,678 {line}\n" for line in text.splitlines()),
    "progress bars between": lambda text: text.replace(
        "\n", "\n 45%|████▌     | 45/100 [00:01<00:01, 44.4it/s]\r 46%|████▌     | 46/100 [00:01<00:01, 44.4it/s]\n"
    ),
    "windows line ends": lambda text: text.replace("\n", "\r\n"),
    "json log": lambda text: json.dumps({"level": "error", "message": f"it failed\n  File \"x.py\"\n{text}"}),
    "a quoted mail": lambda text: "".join(f"> {line}\n" for line in text.splitlines()),
    "another exception after it": lambda text: text
    + "\nDuring handling of the above exception, another exception occurred:\n\nKeyError: 'whatever'\n",
    "another exception before it": lambda text: "KeyError: 'x'\n\nThe above exception was the direct cause of the"
    f" following exception:\n\n{text}",
    "docker compose": lambda text: "".join(f"trainer-1  | {line}\n" for line in text.splitlines()),
    "vllm": lambda text: "".join(
        f"(EngineCore_DP0 pid=14469) ERROR 01-19 20:41:34 [core.py:918] {line}\n" for line in text.splitlines()
    ),
    "vllm in docker": lambda text: "".join(
        f"2024-10-16T03:44:47.190331575Z ERROR 10-15 20:44:47 engine.py:160] {line}\n" for line in text.splitlines()
    ),
    "ray": lambda text: "".join(f"(train_fn pid=4321, ip=10.0.0.1) {line}\n" for line in text.splitlines()),
}  # fmt: skip


@pytest.mark.parametrize("surrounding", SURROUNDINGS)
@pytest.mark.parametrize(("text", "code"), [(RANK, "AD211"), (RENAMED, "AD910"), (OPTIMIZER, "AD920")],
                         ids=["rank", "renamed", "optimizer"])  # fmt: skip
def test_surroundings_change_nothing(surrounding: str, text: str, code: str) -> None:
    around = SURROUNDINGS[surrounding]
    plain, changed = explain(text), explain(around(text))

    assert changed.cause is not None
    assert changed.cause.rule.code == code
    assert [hit.message for hit in changed.cause.hits] == [hit.message for hit in plain.findings[0].hits]


def test_lists_that_break_off_are_lower_bounds() -> None:
    report = explain(RENAMED.replace('"layer1.bias".', '"layer1.bias", ...').replace('"fc.bias".', '"fc.bias", "fc.b'))

    assert report.cause is not None
    assert report.cause.rule.name == "state-dict-renamed"
    assert "a list in the text breaks off, so the counts are lower bounds" in report.notes
    assert "at least 2 of the model's tensors" in report.findings[-1].hits[0].message


def test_notebook_is_read_by_its_outputs_alone(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": [OPTIMIZER]},
        {"cell_type": "code", "source": ["load()"], "outputs": [
            {"output_type": "display_data", "data": {"image/png": "A" * 1000}},
            {"output_type": "error", "ename": "RuntimeError", "evalue": RENAMED, "traceback": RENAMED.splitlines()},
        ]},
    ]  # fmt: skip
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells, "nbformat": 4}, indent=1))

    assert [one.rule.code for one in explain_file(path).findings] == ["AD910", "AD913"]


def test_notebook_that_is_cut_off_is_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text('{"cells": [{"cell_type": "code", "outputs": [{"text": [' + json.dumps(RENAMED))

    assert [one.rule.code for one in explain_file(path).findings] == ["AD910", "AD913"]


def test_file_that_powershell_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(RENAMED.encode("utf-16"))

    assert run("explain", str(path)).exit_code == 1


def test_source_lines_of_a_traceback_are_not_taken_for_messages() -> None:
    text = 'File "x.py", line 3, in f\n    raise ValueError(f"Target modules {x} not found in the base model.")\n'

    assert explain(text + "ValueError: something else of ours\n").findings == ()


# --------------------------------------------------------------------------------------------------- not recognised


@pytest.mark.parametrize("text", [
    "KeyError: 'user_id'", "All went well.\nSaved to out/.", "ZeroDivisionError: division by zero",
    "TypeError: 'NoneType' object is not iterable", "RuntimeError: The size of tensor a (3) must match the size of tensor"
    " b (4) at non-singleton dimension 1", "ValueError: invalid literal for int() with base 10: 'x'", "lora_A and lora_B",
    "INFO trained 3 epochs; trainable params: 4,194,304 || all params: 6,742,609,920 || trainable%: 0.0622",
    "ConnectionError: Max tries", "KeyError: 'CUDA_VISIBLE_DEVICES'", "KeyError: None", "KeyError: 'state'",
    "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://api.example.org/v1/runs",
    "urllib3.exceptions.MaxRetryError: Max retries exceeded with url: /graphql (Caused by NameResolutionError)",
    "torch.distributed.DistBackendError: NCCL error", "AssertionError", "OSError: [Errno 28] No space left on device",
    "IndexError: index out of range in self", "RuntimeError: Found no NVIDIA driver on your system.",
    "ValueError: Unable to create tensor, you should probably activate truncation and/or padding", "[rank0]: it is fine", "ImportError: cannot import name 'foo' from 'bar'", "\ufffd\u202e",
    "UserWarning: Using Rank-Stabilized LoRA means that you won't be able to pass `path_initial_model_for_weight_conversion`"
    " to `save_pretrained` to restore the initial values of the base weights", "KeyError: 'classifier.weight'",
    "FileNotFoundError: [Errno 2] No such file or directory: 'data/pytorch_model.bin'", "LoRA buffer of 64 MB, in use",
    "RuntimeError: Sizes of tensors must match except in dimension 1. Expected size 3 but got size 4 for tensor number 1",
    "NotImplementedError: Float8Tensor dispatch: attempting to run unimplemented operator/function: func=aten.view",
    'File "/x/torch/nn/modules/container.py", line 461, in __getitem__\nKeyError: \'7\'',
    'File "/x/peft/utils/save_and_load.py", line 617, in set_peft_model_state_dict\nFile "/x/mine.py", line 3, in hook\n'
    "KeyError: 'best.weight'",
])  # fmt: skip
def test_what_is_not_known_is_said_not_to_be(text: str) -> None:
    report = explain(text)

    assert (report.verdict, report.exit_code, report.findings) == ("undetermined", 3, ())
    assert report.notes[0].startswith("not recognised")


def test_nearest_known_forms_are_named() -> None:
    report = explain(
        "ValueError: Target module of yours {'c_attn'} were nowhere in the base, please check the target modules"
    )

    assert report.verdict == "undetermined"
    assert report.notes[1].startswith("nearest known form: peft-targets-not-found (PEFT): ValueError: Target modules")


def test_empty_text_and_no_text_are_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "weights.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")

    assert run("explain", str(tmp_path / "empty")).exit_code == 2
    assert run("explain", "-", stdin="").exit_code == 2
    assert run("explain", str(tmp_path)).exit_code == 2
    result = run("explain", str(tmp_path / "weights.safetensors"))
    assert (result.exit_code, "is no text" in result.stderr) == (2, True)
    with pytest.raises(DoctorError, match="without an adapter"):
        explain(RENAMED, base="somewhere")


# ------------------------------------------------------------------------------------------------------ the command


def test_command_takes_a_file_a_pipe_and_a_message(tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    path.write_text(RENAMED)

    results = [run("explain", str(path)), run("explain", "-", stdin=RENAMED), run("explain", RENAMED)]

    assert [result.exit_code for result in results] == [1, 1, 1]
    assert len({result.stdout.replace(str(path), "X").split("examined")[1] for result in results}) == 1


def test_json_is_that_of_check_with_the_text_beside(tmp_path: Path) -> None:
    data = json.loads(run("explain", "-", "--format", "json", stdin=RANK).stdout)

    assert (data["schema"], data["verdict"], data["examined"]) == (1, "incompatible", "text")
    assert data["cause"] == {"code": "AD211", "name": "rank-mismatch"}
    assert data["text"] == {"reference": "standard input", "bytes": len(RANK), "recognised": True, "partial": False}
    assert {"code", "name", "severity", "message", "fix", "examples"} <= data["findings"][0].keys()


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_shows_a_report_on_a_text(form: str, tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    path.write_text(OPTIMIZER)
    result = run("explain", str(path), "--format", form)

    assert (result.exit_code, result.stderr) == (1, "")
    assert "AD920" in result.stdout
    assert "None" not in result.stdout.replace("NoneType", "")


def test_code_still_shows_its_page() -> None:
    assert "rank-mismatch" in run("explain", "AD211").stdout


def test_hostile_text_is_shown_tame() -> None:
    name = "a\u202eb\x1b]0;title\x07.\x9bweight"
    shown = run("explain", "-", stdin=RENAMED.replace("layer1.bias", name)).stdout

    assert all(sign.isprintable() or sign == "\n" for sign in shown)


# ---------------------------------------------------------------------------------------------------- with the files


def written(tmp_path: Path, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    base, adapter = patient.write(tmp_path, **({"changes": changes} if changes else {}))
    return {"base": str(base), "adapter": str(adapter), "load": "no"}


def test_files_that_bear_the_text_out_are_said_to(tmp_path: Path) -> None:
    options = written(tmp_path)
    config = Path(options["adapter"]) / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "r": 4}))

    report = explain(RANK, **options)

    assert report.cause is not None
    assert report.cause.rule.code == "AD211"
    assert "the files bear the text out: AD211 rank-mismatch" in report.notes
    assert report.examined == "static"


def test_files_that_are_healthy_contradict_the_text(tmp_path: Path) -> None:
    report = explain(RANK, **written(tmp_path))

    assert report.verdict == "compatible"
    assert any("the files do not bear the text out: it tells of AD211" in note for note in report.notes)


def test_what_files_cannot_show_is_still_told(tmp_path: Path) -> None:
    report = explain(OPTIMIZER, **written(tmp_path))

    assert report.cause is not None
    assert report.cause.rule.code == "AD920"
    assert any("cannot be examined in these files" in note for note in report.notes)


# ------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize(("form", "example"), [(form, text) for form in forms.all_forms() for text in form.examples],
                         ids=lambda value: value.name if isinstance(value, forms.Form) else "")  # fmt: skip
def test_form_is_recognised_by_its_examples_and_no_other_form_is(form: forms.Form, example: str) -> None:
    found = forms.recognise(reading.read_string(f"step 1\n{example}\nstep 2"))

    assert [message.form for message in found] == [form.name]
    assert found[0].line >= 2
    assert not re.search(r"\{\w*\}|\[\s*[:;]|\(\)", found[0].says), found[0].says


def test_table_is_sound() -> None:
    names = [form.name for form in forms.all_forms()]
    codes = {rule.code for rule in all_rules()}

    assert len(names) == len(set(names))
    assert [
        form.name for form in forms.all_forms() if form.code not in codes or not set(form.hides) <= set(names)
    ] == []
    assert all(len(constant) >= 7 for form in forms.all_forms() for constant in form.find)


def test_every_message_that_calls_itself_an_error_is_found_in_a_long_log() -> None:
    noise = "".join(f"{{'loss': 1.{at:04d}, 'grad_norm': 0.1}} lora step {at}\n" for at in range(2_000))
    loud = re.compile("[Ee]rror|ERROR|Exception|Warning|failed|size mismatch|lora key")
    for form in forms.all_forms():
        for example in filter(loud.search, form.examples):
            text = reading.scanned(b"", io.BytesIO(f"{noise}{example}\n{noise}".encode()))
            assert [message.form for message in forms.recognise(text)] == [form.name]
            assert text.at(text.squeezed.find(form.find[0]))[0] in (-1, 2_001) or len(form.find) > 1


@pytest.mark.parametrize("hostile", [
    "Error(s) in loading state_dict for " * 30_000, 'Missing key(s) in state_dict: "' + "a." * 300_000,
    "size mismatch for " + "a" * 1_000_000, "size mismatch for a: copying a param with shape torch.Size([" * 20_000,
    "Target modules " * 60_000 + "not found in the base model", "x_keys=[" * 100_000, '"a",' * 250_000,
    "[" * 500_000 + "{" * 500_000, "model.layers.{0, 1} | MISSING | " * 30_000, "a.{0...99999}.b | MISSING |" * 2_000,
    "{0,1}" * 2_000 + "|MISSING|", "403 Client Error" * 50_000, "KeyError: 'base_model.model." * 30_000, "\x1b[" * 400_000,
    "45%|" * 200_000, "Some weights of " * 60_000, "x\r" * 900_000, "Expected keys: [" * 60_000, "1: " * 300_000,
], ids=lambda text: text[:24])  # fmt: skip
def test_hostile_text_takes_no_time(hostile: str) -> None:
    before = time.process_time()

    explain(hostile)

    assert time.process_time() - before < 6


def test_long_log_is_read_within_its_bounds(tmp_path: Path) -> None:
    noise = b"".join(
        b"{'loss': 1.%04d, 'grad_norm': 0.123} step %d Error: none, retry\n" % (at, at) for at in range(300_000)
    )
    path = tmp_path / "run.log"
    path.write_bytes(noise + RANK.encode() + noise)
    tracemalloc.start()
    report = explain_file(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert report.cause is not None
    assert report.cause.rule.code == "AD211"
    assert peak < 100 << 20
    assert any("only the surroundings" in note for note in report.notes)


def test_load_report_rows_are_taken_apart() -> None:
    names = list(key_lists.expanded("layers.{0...3}.a.{0, 2}.b".replace(" ", "")))

    assert names == [f"layers.{layer}.a.{one}.b" for layer in range(4) for one in (0, 2)]


@pytest.mark.parametrize(("file", "model"), [("[640]", "[320]"), ("[4194304, 1]", "[2048, 4096]"), ("[0]", "[8, 64]"),
                                             ("[640, 64]", "[640, 1, 64]")])  # fmt: skip
def test_only_a_matrix_that_became_one_row_is_called_flattened(file: str, model: str) -> None:
    text = (
        "RuntimeError: Error(s) in loading state_dict for Net:\n\tsize mismatch for layers.0.proj.weight: copying a param"
        f" with shape torch.Size({file}) from checkpoint, the shape in current model is torch.Size({model})."
    )

    assert "AD931" not in [finding.rule.code for finding in explain(text).findings]


def test_old_torch_wording_is_parsed() -> None:
    listed = state_dict_error.parse(forms.squeeze(
        'While copying the parameter named "fc.weight", whose dimensions in the model are torch.Size([3, 8]) and whose'
        " dimensions in the checkpoint are torch.Size([5, 8])."
    ))  # fmt: skip

    assert listed is not None
    assert [(one.key, one.in_file, one.in_model) for one in listed.clashes.values()] == [("fc.weight", (5, 8), (3, 8))]


# ------------------------------------------------------------------------------------------------ scripts, notebooks


def test_exception_is_the_same_with_a_note() -> None:
    error = RuntimeError(RENAMED)
    with pytest.raises(RuntimeError) as caught, adapter_doctor.explaining():
        raise error

    assert caught.value is error
    assert error.args == (RENAMED,)
    (note,) = error.__notes__
    assert "AD910 state-dict-renamed" in note


def test_exception_that_is_not_known_is_left_alone() -> None:
    error = KeyError("x")
    with pytest.raises(KeyError), adapter_doctor.explaining():
        raise error

    assert not hasattr(error, "__notes__")


def test_fault_in_the_diagnosis_does_not_hide_the_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> Report:
        raise OSError("a fault of ours")

    monkeypatch.setattr("adapter_doctor.explanation.explain", broken)
    error = RuntimeError(RENAMED)
    with pytest.raises(RuntimeError) as caught, adapter_doctor.explaining():
        raise error

    assert caught.value is error
    assert caught.value.__context__ is None


def test_report_of_a_refused_load_is_its_own_explanation() -> None:
    report = explain(RANK)

    assert explain(adapter_doctor.AdapterError(report)) is report


def test_notebook_extension_shows_the_diagnosis_under_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    shells = pytest.importorskip("IPython.core.interactiveshell")
    shell = shells.InteractiveShell()
    shell.run_line_magic("load_ext", "adapter_doctor")
    result = shell.run_cell(f"raise RuntimeError({RENAMED!r})")
    shown = capsys.readouterr().out
    shell.run_cell("1 + 1\nundefined_name")
    other = capsys.readouterr().out
    shell.run_line_magic("unload_ext", "adapter_doctor")
    shell.run_cell(f"raise RuntimeError({RENAMED!r})")
    gone = capsys.readouterr().out

    assert isinstance(result.error_in_exec, RuntimeError)
    assert 0 < shown.find("RuntimeError") < shown.find("state-dict-renamed")
    assert "NameError" in other
    assert "adapter-doctor" not in other
    assert "UNDETERMINED" not in other
    assert "state-dict-renamed" not in gone
