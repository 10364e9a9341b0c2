"""What the README shows is what happens: its console blocks, its comparison with loading and hoping, its pictures."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapter_doctor import check
from adapter_doctor.loading.process import LoadingChild

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text("utf-8")
# Indented blocks that begin with a prompt; those on the demo can be run by everybody, the others name what is yours.
BLOCKS = [
    re.sub(r"(?m)^    ", "", one)
    for one in (found.lstrip("\n") for found in re.findall(r"(?m)(?:^    .*\n|^\n(?=    ))+", TEXT))
    if one.startswith("    $ ")
]
DEMO = [block for block in BLOCKS if "demo/" in block]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `demo/` is as `./scripts/demo` makes it."""
    folder = tmp_path_factory.mktemp("readme")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Path.cwd()
        os.chdir(folder)
        try:
            script("build_demo").main(Path("demo"))
        finally:
            os.chdir(before)
    return folder


def test_there_are_blocks_to_run() -> None:
    assert DEMO


@pytest.mark.parametrize("block", DEMO, ids=lambda block: block.splitlines()[0][2:])
def test_block_shows_what_is_printed(block: str, place: Path) -> None:
    code = 0
    for command, shown in re.findall(r"(?m)^\$ (.*)\n((?:(?!\$ ).*\n)*)", block):
        if command == "echo $?":
            assert shown.strip() == str(code)
            continue
        program, *arguments = shlex.split(command)
        assert program == "adapter-doctor"
        run = [sys.executable, "-m", "adapter_doctor", *arguments]
        done = subprocess.run(
            run, cwd=place, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        code = done.returncode
        assert versionless(done.stdout) == versionless(shown)


def versionless(text: str) -> list[str]:
    return re.sub(r"(torch|transformers|peft) [\d.+a-z]+", r"\1 N", text).rstrip().splitlines()


def test_picture_of_the_terminal_is_up_to_date() -> None:
    picture = script("screenshot")

    assert picture.PICTURE.read_text("utf-8") == picture.text(), "run scripts/screenshot.py"
    assert "scripts/screenshot.svg" in TEXT


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXT)

    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


# --------------------------------------------------------------------------------------- against loading and hoping


def _compiled(state: dict[str, Any], config: dict[str, Any]) -> None:
    renamed = {name.replace("base_model.model.", "base_model.model._orig_mod.", 1): one for name, one in state.items()}
    state.clear()
    state.update(renamed)


def _narrower(state: dict[str, Any], config: dict[str, Any]) -> None:
    config["target_modules"] = ["q_proj"]


def _nan(state: dict[str, Any], config: dict[str, Any]) -> None:
    next(one for name, one in state.items() if "lora_B" in name).fill_(float("nan"))


def _copy(state: dict[str, Any], config: dict[str, Any]) -> None:
    import torch

    state["base_model.model.model.layers.0.mlp.down_proj.weight"] = torch.zeros(64, 128)


def _alpha(state: dict[str, Any], config: dict[str, Any]) -> None:
    config["lora_alpha"] = 320


ROWS: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], None] | None, str, str]] = {
    "names as `torch.compile` leaves them": (_compiled, "warns", "wrapper-in-keys"),
    "`target_modules` narrower than the file": (_narrower, "silent", "tensors-not-targeted"),
    "NaN in one tensor": (_nan, "silent", "not-finite"),
    "a copy of a base weight in the file": (_copy, "silent", "base-weights-inside"),
    "made for a base of another width": (None, "raises", "wrong-base"),
    "an edited `lora_alpha`": (_alpha, "silent", ""),
}
SAID = {"warns": "loads with a warning", "silent": "loads without a word", "raises": "raises"}


@pytest.fixture(scope="module")
def child() -> Any:
    with LoadingChild() as one:
        yield one


def peft_does(base: Path, adapter: Path) -> str:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            PeftModel.from_pretrained(model, adapter)
        except RuntimeError:
            return "raises"
    return "warns" if any("missing" in str(one.message) for one in said) else "silent"


@pytest.mark.parametrize("name", ROWS)
def test_comparison_is_what_peft_and_we_say(name: str, place: Path, tmp_path: Path, child: LoadingChild) -> None:
    from safetensors.torch import load_file, save_file

    change, does, found = ROWS[name]
    adapter = place / "demo" / "wrong-base"
    if change is not None:
        adapter = tmp_path / "adapter"
        shutil.copytree(place / "demo" / "sound", adapter)
        state, config = load_file(adapter / WEIGHTS), json.loads((adapter / CONFIG).read_text())
        change(state, config)
        save_file(state, adapter / WEIGHTS, metadata={"format": "pt"})
        (adapter / CONFIG).write_text(json.dumps(config))
    report = check(place / "demo" / "base", adapter, child=child)
    (row,) = (line for line in TEXT.splitlines() if line.startswith(f"| {name} |"))

    assert peft_does(place / "demo" / "base", adapter) == does
    assert row.split("|")[2].strip().startswith(SAID[does])
    assert (report.cause.rule.name if report.cause else "") == found
    assert row.split("|")[3].strip().startswith(f"{report.cause.rule.code} {found}" if report.cause else "cannot tell")
