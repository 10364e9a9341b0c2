"""What `fix` leaves alone: healthy adapters, the original, the output folder of others, and what it cannot mend."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from adapter_doctor import DoctorError, fix
from adapter_doctor.cli import application
from adapter_doctor.loading.process import LoadingChild
from adapter_doctor.repair.values import Reader

WEIGHTS, PICKLE, CONFIG = "adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    with LoadingChild() as one:
        yield one


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny Llama and a healthy LoRA for it, with a model card."""
    root = tmp_path_factory.mktemp("places")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tiny.by_name("llama").build()
        model.save_pretrained(root / "base")
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        adapted = peft.get_peft_model(model, config)
        tiny.train_by_chance(adapted)
        adapted.save_pretrained(root / "healthy")
    (root / "healthy" / "README.md").write_text("# mine\n")
    return root / "base", root / "healthy"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def broken(places: tuple[Path, Path], folder: Path) -> Path:
    """The adapter with names as torch.compile leaves them."""
    shutil.copytree(places[1], folder)
    state = {key.replace("base_model.model.", "base_model.model._orig_mod."): value for key, value in load_file(folder / WEIGHTS).items()}  # fmt: skip
    save_file(state, folder / WEIGHTS, metadata={"format": "pt", "trainer": "mine"})
    return folder


def edit(folder: Path, **fields: Any) -> None:
    raw = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(raw | fields))


def test_a_sound_adapter_has_nothing_to_mend_and_nothing_is_written(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    before = contents(places[1])

    repair = fix(*places, tmp_path / "out", child=child, cache=False)

    assert (repair.state, repair.exit_code) == ("healthy", 0)
    assert "NOTHING TO MEND" in str(repair)
    assert contents(places[1]) == before
    assert list(tmp_path.iterdir()) == []


def test_a_mended_adapter_has_nothing_more_to_mend(places: tuple[Path, Path], child: LoadingChild, tmp_path: Path) -> None:  # fmt: skip
    fix(places[0], broken(places, tmp_path / "broken"), tmp_path / "once", child=child, cache=False)

    assert fix(places[0], tmp_path / "once", tmp_path / "twice", child=child, cache=False).state == "healthy"
    assert not (tmp_path / "twice").exists()


def test_the_copy_keeps_metadata_and_small_files_and_records_what_was_done(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    folder = broken(places, tmp_path / "broken")
    (folder / "optimizer.pt").write_bytes(b"x" * 100)
    (folder / "checkpoint-5").mkdir()
    shutil.copy(folder / CONFIG, folder / "checkpoint-5" / CONFIG)
    (folder / "templates").mkdir()
    (folder / "templates" / "chat.jinja").write_text("{{ messages }}")
    (folder / "secret").symlink_to("/etc/hostname")

    fix(places[0], folder, tmp_path / "out", child=child, cache=False)

    assert sorted(contents(tmp_path / "out")) == [
        "README.md", CONFIG, WEIGHTS, "templates/chat.jinja",
    ]  # fmt: skip
    assert (tmp_path / "out" / CONFIG).read_bytes() == (folder / CONFIG).read_bytes()
    with safe_open(tmp_path / "out" / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    assert metadata["trainer"] == "mine"
    assert json.loads(metadata["adapter_doctor"])["steps"][0]["mends"] == "AD216"


def test_a_dry_run_shows_the_plan_and_what_would_land_and_writes_nothing(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    folder = broken(places, tmp_path / "broken")

    repair = fix(places[0], folder, tmp_path / "out", dry_run=True, child=child, cache=False)

    assert (repair.state, repair.exit_code) == ("planned", 0)
    assert str(repair) == (
        "PLAN\n"
        "  before   0 of 12 tensors landed; incompatible: AD216 wrapper-in-keys: 12 of 12\n"
        "    tensor names carry `_orig_mod` (torch.compile)\n"
        "    1. take `_orig_mod.` out of 12 tensor names  (AD216)\n"
        "  after    12 of 12 tensors would land; nothing was written\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_an_output_folder_that_holds_something_is_refused(places: tuple[Path, Path], tmp_path: Path) -> None:
    taken, link, file = tmp_path / "taken", tmp_path / "link", tmp_path / "file"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    link.symlink_to(taken)
    file.write_text("mine")

    for place in (taken, link, file, tmp_path / "nowhere" / "out", places[1]):
        with pytest.raises(DoctorError):
            fix(*places, place)

    assert (taken / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "options",
    [
        {"output": "~nobody-of-this-name/out"},
        {"time_limit": float("nan")},
        {"time_limit": -1.0},
        {"for_peft": "newest"},
    ],
)
def test_options_that_mean_nothing_are_wrong_usage(options: dict[str, Any], places: tuple[Path, Path], tmp_path: Path) -> None:  # fmt: skip
    with pytest.raises(DoctorError):
        fix(*places, **{"output": tmp_path / "out", **options})


def test_an_adapter_that_could_not_be_loaded_is_not_called_whole(places: tuple[Path, Path], tmp_path: Path) -> None:
    for folder in (places[1], broken(places, tmp_path / "broken")):
        repair = fix(places[0], folder, tmp_path / "out", python="/nonexistent/python", cache=False)

        assert repair.state == "refused"
        assert repair.exit_code == (3 if folder == places[1] else 1)
        assert "/nonexistent/python could not be started" in repair.why


def test_a_link_that_leads_nowhere_and_metadata_that_no_encoding_has_hinder_nothing(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    folder = broken(places, tmp_path / "broken")
    (folder / "notes.txt").symlink_to("nowhere")
    raw = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + length].replace(b'"mine"', b'"\\ud800"')
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])

    repair = fix(places[0], folder, tmp_path / "out", child=child, cache=False)

    assert repair.state == "mended", str(repair)
    assert sorted(contents(tmp_path / "out")) == ["README.md", CONFIG, WEIGHTS]


def test_tensors_of_less_than_a_byte_are_not_rearranged(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(places[1], tmp_path / "four-bits"))
    header: dict[str, Any] = {}
    at = 0
    for key, value in load_file(folder / WEIGHTS).items():
        size = value.numel() // 2
        header[key] = {"dtype": "F4", "shape": list(value.shape[::-1]), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))

    repair = fix(places[0], folder, tmp_path / "out", child=child, cache=False)

    assert repair.state == "refused"
    assert [path.name for path in tmp_path.iterdir()] == ["four-bits"]


def test_settings_that_json_does_not_have_are_text(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    folder = broken(places, tmp_path / "broken")
    edit(folder, alpha_pattern={r"model\.layers\.0\.self_attn\.q_proj": float("nan")})
    repair = fix(places[0], folder, tmp_path / "out", child=child, cache=False)

    assert json.dumps(repair.to_dict(), allow_nan=False, default=str)


def test_an_empty_output_folder_is_used(places: tuple[Path, Path], child: LoadingChild, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    repair = fix(places[0], broken(places, tmp_path / "broken"), tmp_path / "out", child=child, cache=False)

    assert repair.state == "mended"
    assert (tmp_path / "out" / WEIGHTS).is_file()


def test_nothing_is_left_when_the_disk_is_full(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = broken(places, tmp_path / "broken")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Reader, "copy", full)
    with pytest.raises(DoctorError, match="the disk is full"):
        fix(places[0], folder, tmp_path / "out", child=child, cache=False)

    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_nothing_is_left_when_the_copy_does_not_prove_itself(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    """One layer is not there at all: the names are mended, the adapter still is not whole."""
    folder = broken(places, tmp_path / "broken")
    state = {key: value for key, value in load_file(folder / WEIGHTS).items() if ".layers.1." not in key}
    save_file(state, folder / WEIGHTS)

    repair = fix(places[0], folder, tmp_path / "out", child=child, cache=False)

    assert (repair.state, repair.exit_code) == ("refused", 1)
    assert "4 places have no tensor" in repair.why
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


STALL = """
import sys, time
from adapter_doctor.repair import writing
from adapter_doctor.repair.values import Reader
def stall(*_):
    print("writing", flush=True)
    time.sleep(60)
writing.Reader.copy = stall
from adapter_doctor.cli import main
sys.argv = ["adapter-doctor", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_after_an_interruption(places: tuple[Path, Path], tmp_path: Path, number: int) -> None:
    folder = broken(places, tmp_path / "broken")
    command = [sys.executable, "-c", STALL, "fix", str(places[0]), str(folder), "--output", str(tmp_path / "out")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # in a shell's background it is ignored, and inherited
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)

    assert process.returncode != 0
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


# ----------------------------------------------------------------------------------- what else the file may hold


def raw_state(places: tuple[Path, Path], folder: Path, **settings: Any) -> tuple[Path, dict[str, torch.Tensor]]:
    """An adapter saved as `torch.save(model.state_dict())` does it, base weights and all; and what PEFT would save."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(places[0])
        chosen = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings}
        adapted = peft.get_peft_model(model, peft.LoraConfig(**chosen))
        tiny.train_by_chance(adapted)
        adapted.save_pretrained(folder)
    wanted = load_file(folder / WEIGHTS)
    torch.save(adapted.state_dict(), folder / PICKLE)
    (folder / WEIGHTS).unlink()
    return folder, wanted


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["lm_head"]}], ids=["plain", "with a saved head"])
def test_a_raw_state_dict_is_stripped_of_what_is_the_bases_own(
    settings: dict[str, Any], places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    folder, wanted = raw_state(places, tmp_path / "raw", **settings)

    repair = fix(places[0], folder, tmp_path / "out", child=child, cache=False)

    assert repair.state == "mended", str(repair)
    found = load_file(tmp_path / "out" / WEIGHTS)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


def test_a_head_that_was_trained_and_forgotten_in_the_config_is_named_there(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    folder, _ = raw_state(places, tmp_path / "raw", modules_to_save=["lm_head"])
    assert fix(places[0], folder, tmp_path / "whole", child=child, cache=False).state == "mended"
    edit(tmp_path / "whole", modules_to_save=None)

    repair = fix(places[0], tmp_path / "whole", tmp_path / "out", child=child, cache=False)

    assert repair.state == "mended", str(repair)
    assert json.loads((tmp_path / "out" / CONFIG).read_text())["modules_to_save"] == ["lm_head"]


def test_weights_of_another_base_are_not_taken_for_an_adapter(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    folder, _ = raw_state(places, tmp_path / "raw")
    other = Path(shutil.copytree(places[0], tmp_path / "other"))
    state = {key: value * 1.5 for key, value in load_file(other / "model.safetensors").items()}
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})

    assert fix(other, folder, tmp_path / "out", child=child, cache=False).state == "refused"


def test_bone_becomes_miss_and_answers_the_same(places: tuple[Path, Path], child: LoadingChild, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(places[0])
        adapted = peft.get_peft_model(model, peft.MissConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
        tiny.train_by_chance(adapted)
        adapted.save_pretrained(tmp_path / "miss")
    wanted = load_file(tmp_path / "miss" / WEIGHTS)
    save_file({key.replace("miss_block", "bone_block"): value for key, value in wanted.items()}, tmp_path / "miss" / WEIGHTS)  # fmt: skip
    edit(tmp_path / "miss", peft_type="BONE")

    repair = fix(places[0], tmp_path / "miss", tmp_path / "out", child=child, cache=False)

    assert repair.state == "mended", str(repair)
    assert load_file(tmp_path / "out" / WEIGHTS).keys() == wanted.keys()


# ------------------------------------------------------------------------------------------- what cannot be mended


def test_half_an_adapter_is_not_made_to_fit(places: tuple[Path, Path], child: LoadingChild, tmp_path: Path) -> None:
    """Narrowing `target_modules` to what is left would hide that tensors are lost."""
    folder = Path(shutil.copytree(places[1], tmp_path / "half"))
    state = {key: value for key, value in load_file(folder / WEIGHTS).items() if "v_proj" not in key}
    save_file(state, folder / WEIGHTS)

    repair = fix(places[0], folder, tmp_path / "out", child=child, cache=False)

    assert (repair.state, repair.exit_code) == ("refused", 1)


def test_a_wrong_base_is_not_made_to_fit(places: tuple[Path, Path], child: LoadingChild, tmp_path: Path) -> None:
    other = tiny.Tiny("wide", "LlamaConfig", "AutoModelForCausalLM", "CAUSAL_LM", (), {**tiny.by_name("llama").sizes, "hidden_size": 48})  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other.build().save_pretrained(tmp_path / "wide")

    repair = fix(tmp_path / "wide", places[1], tmp_path / "out", child=child, cache=False)

    assert repair.state == "refused"
    assert repair.draft is not None
    assert repair.draft.steps == ()


def test_two_adapters_in_one_file_are_not_mixed(places: tuple[Path, Path], child: LoadingChild, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(places[1], tmp_path / "two"))
    state = load_file(folder / WEIGHTS)
    save_file({key.replace(".weight", f".{name}.weight"): value.clone() for name in ("one", "other") for key, value in state.items()}, folder / WEIGHTS)  # fmt: skip

    repair = fix(places[0], folder, tmp_path / "out", child=child, cache=False)

    assert repair.state == "refused"
    assert "2 adapters (one, other)" in repair.why


def test_a_pickle_that_runs_code_is_not_opened(places: tuple[Path, Path], child: LoadingChild, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "pwned"),)

    folder = Path(shutil.copytree(places[1], tmp_path / "evil"))
    torch.save({**load_file(folder / WEIGHTS), "evil": Evil()}, folder / PICKLE)
    (folder / WEIGHTS).unlink()

    repair = fix(places[0], folder, tmp_path / "out", child=child, cache=False)

    assert repair.state == "refused"
    assert not (tmp_path / "pwned").exists()


def test_placeholders_of_zero3_lead_to_the_real_weights(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(places[1], tmp_path / "checkpoint-20"))
    save_file({key: torch.zeros(0) for key in load_file(folder / WEIGHTS)}, folder / WEIGHTS)
    (folder / "global_step20").mkdir()
    (folder / "global_step20" / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_bytes(b"x")
    (folder / "zero_to_fp32.py").write_text("")
    shutil.copytree(places[1], tmp_path / "checkpoint-10")

    repair = fix(places[0], folder, tmp_path / "out", child=child, cache=False)

    assert repair.state == "refused"
    assert "placeholders" in repair.advice[0]
    assert f"python {folder}/zero_to_fp32.py" in repair.advice[1]
    assert f"{tmp_path / 'checkpoint-10'} holds adapter weights" in repair.advice[2]


# ------------------------------------------------------------------------------------------------- lossy repairs


def test_values_that_are_nan_become_zero_only_when_asked(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(places[1], tmp_path / "nan"))
    state = load_file(folder / WEIGHTS)
    first = sorted(state)[0]
    state[first][0, :3] = float("nan")
    save_file(state, folder / WEIGHTS)

    refused = fix(places[0], folder, tmp_path / "out", child=child, cache=False)
    mended = fix(places[0], folder, tmp_path / "out", losing=("nan",), child=child, cache=False)

    assert refused.state == "refused"
    assert "NaN" in refused.advice[0]
    assert mended.state == "mended"
    assert mended.draft is not None
    assert "3 values" in mended.draft.steps[0].loss
    assert "lost: 3 values" in str(mended)
    expected = {**state, first: torch.nan_to_num(state[first])}
    found = load_file(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_layers_that_the_base_lacks_are_dropped_only_when_asked(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    short = tiny.Tiny("short", "LlamaConfig", "AutoModelForCausalLM", "CAUSAL_LM", (), {**tiny.by_name("llama").sizes, "num_hidden_layers": 2})  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        short.build().save_pretrained(tmp_path / "short")

    refused = fix(tmp_path / "short", places[1], tmp_path / "out", child=child, cache=False)
    mended = fix(tmp_path / "short", places[1], tmp_path / "out", losing=("layers",), child=child, cache=False)

    assert refused.state == "refused"
    assert mended.state == "mended"
    assert "lost: 4 of 12 trained tensors" in str(mended)


def test_rows_beyond_the_vocabulary_are_cut_only_when_asked(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tiny.by_name("llama").build()
        model.resize_token_embeddings(136)
        config = peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM")  # fmt: skip
        adapted = peft.get_peft_model(model, config)
        tiny.train_by_chance(adapted)
        adapted.save_pretrained(tmp_path / "resized")

    refused = fix(places[0], tmp_path / "resized", tmp_path / "out", child=child, cache=False)
    mended = fix(places[0], tmp_path / "resized", tmp_path / "out", losing=("rows",), child=child, cache=False)

    assert refused.state == "refused"
    assert mended.state == "mended", str(mended)
    assert "8 tokens from 128 on" in str(mended)
    whole, cut = load_file(tmp_path / "resized" / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(cut[key], whole[key][: len(cut[key])]) for key in cut)


# ---------------------------------------------------------------------------------------------------- the config


def test_fields_that_an_older_peft_cannot_read_are_taken_out_where_they_change_nothing(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    repair = fix(*places, tmp_path / "out", for_peft="0.13.2", child=child, cache=False)

    raw = json.loads((tmp_path / "out" / CONFIG).read_text())
    before = json.loads((places[1] / CONFIG).read_text())
    assert repair.state == "mended"
    assert "lora_bias" not in raw
    assert raw.items() <= before.items()


def test_a_field_that_an_older_peft_lacks_and_the_adapter_uses_is_not_taken_out(
    places: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(places[1], tmp_path / "used"))
    edit(folder, exclude_modules="nothing_like_this")

    repair = fix(places[0], folder, tmp_path / "out", for_peft="0.13.2", child=child, cache=False)

    assert (repair.state, repair.exit_code) == ("refused", 1)
    assert not (tmp_path / "out").exists()
    assert "`exclude_modules`" in repair.why


# ---------------------------------------------------------------------------------------------- the command line


def test_the_command_says_what_is_wrong_with_its_arguments(places: tuple[Path, Path], tmp_path: Path) -> None:
    for arguments in (
        ["fix", *map(str, places)],
        ["fix", *map(str, places), "--output", str(places[1])],
        ["fix", *map(str, places), "--dry-run", "--format", "html"],
    ):
        result = CliRunner().invoke(application(), arguments)

        assert result.exit_code == 2
        assert "error: " in result.stderr
        assert "Traceback" not in result.output


def test_the_command_mends_and_answers_in_json(places: tuple[Path, Path], tmp_path: Path) -> None:
    folder = broken(places, tmp_path / "broken")

    result = CliRunner().invoke(application(), ["fix", str(places[0]), str(folder), "--output", str(tmp_path / "out"), "--format", "json"])  # fmt: skip

    told = json.loads(result.stdout)
    assert result.exit_code == 0
    assert told["state"] == "mended"
    assert (told["before"]["landed"]["landed"], told["after"]["landed"]["landed"]) == (0, 12)
    assert told["plan"][0]["mends"] == "AD216"
