"""Findings about a wrong or missing base name the known bases that the tensors were made for."""

from __future__ import annotations

import json
from pathlib import Path

import patient
import pytest
from test_bases import write_adapter

from adapter_doctor import Report, check
from adapter_doctor.knowledge.bases import known_bases

LLAMA = known_bases()["meta-llama/Meta-Llama-3-8B"]
QWEN = known_bases()["Qwen/Qwen2.5-7B"]


def name(adapter: Path, base: str | None) -> None:
    path = adapter / "adapter_config.json"
    config = {**json.loads(path.read_text("utf-8")), "base_model_name_or_path": base, "target_modules": ["q_proj"]}
    path.write_text(json.dumps(config), "utf-8")


def cause(report: Report, code: str) -> str:
    assert report.cause is not None
    assert report.cause.rule.code == code, report.summary
    return report.cause.hits[0].fix or ""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return patient.write(tmp_path)[0]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (None, "use the base of the training: the tensors have the sizes of "),
        ("meta-llama/Meta-Llama-3-8B", "the adapter names: meta-llama/Meta-Llama-3-8B; the tensors have its sizes"),
        ("someone/fine-tune", "use the base that the adapter names: someone/fine-tune"),
        (
            "/x/Meta-Llama-3-8B",
            "meta-llama/Meta-Llama-3-8B, by the path '/x/Meta-Llama-3-8B'; the tensors have its sizes",
        ),
        (
            "/x/unsloth/llama-3-8b",
            "unsloth/llama-3-8b, by the path '/x/unsloth/llama-3-8b'; the tensors have its sizes",
        ),
    ],
)
def test_wrong_base_names_the_right_one(base: Path, tmp_path: Path, named: str | None, said: str) -> None:
    (tmp_path / "made").mkdir()
    adapter = write_adapter(LLAMA, tmp_path / "made", ("q_proj", "k_proj", "v_proj"))
    name(adapter, named)

    assert said in cause(check(base, adapter, load="no", values=False), "AD314")


def test_base_that_cannot_be_found_is_recognised_by_its_path(tmp_path: Path) -> None:
    name(write_adapter(QWEN, tmp_path), "/root/models/Qwen2.5-7B")

    fix = cause(check(None, tmp_path, load="no", values=False), "AD009")

    assert fix == "try `adapter-doctor check Qwen/Qwen2.5-7B ADAPTER`: the tensors have its sizes"


def test_path_that_names_another_size_is_not_believed(tmp_path: Path) -> None:
    name(write_adapter(QWEN, tmp_path), "/root/models/Qwen2.5-14B")

    assert ": but the tensors have the sizes of Qwen/Qwen2" in cause(
        check(None, tmp_path, load="no", values=False), "AD009"
    )


def test_no_name_at_all_leaves_the_shapes(tmp_path: Path) -> None:
    name(write_adapter(known_bases()["google/gemma-2b"], tmp_path), "")

    fix = cause(check(None, tmp_path, load="no", values=False), "AD009")

    assert fix == "name the base: the tensors have the sizes of google/gemma-2b, google/gemma-2b-it"
