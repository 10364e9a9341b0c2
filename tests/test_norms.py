"""The norms of updates that the picture tells, against the updates as torch computes them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from adapter_doctor.facts import AdapterConfig, AdapterTensors, Facts
from adapter_doctor.gather.adapter import gather_adapter
from adapter_doctor.gather.norms import UNASKED, gather_norms, with_norms
from adapter_doctor.sources.disk import DiskSource

FRONT = "base_model.model.model.layers.0"


def adapter(folder: Path, state: dict[str, Any], **config: Any) -> tuple[Path, AdapterConfig, AdapterTensors]:
    raw = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(raw))
    safetensors.numpy.save_file(state, folder / "adapter_model.safetensors")
    facts = gather_adapter(DiskSource(folder, "x"), Facts())
    tensors = facts.get(AdapterTensors)
    assert isinstance(tensors, AdapterTensors)
    return folder / "adapter_model.safetensors", AdapterConfig(raw), tensors


@pytest.mark.parametrize("kind", ["f8", "f4", "f2"])
def test_norm_is_that_of_the_product_with_its_scaling(kind: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(4, 32)).astype(kind), random.normal(size=(48, 4)).astype(kind)
    conv_a, conv_b = random.normal(size=(2, 8, 3, 3)).astype(kind), random.normal(size=(16, 2, 1, 1)).astype(kind)
    state = {
        f"{FRONT}.mlp.up_proj.lora_A.weight": a, f"{FRONT}.mlp.up_proj.lora_B.weight": b,
        f"{FRONT}.conv.lora_A.weight": conv_a, f"{FRONT}.conv.lora_B.weight": conv_b,
        f"{FRONT}.mlp.down_proj.lora_A.weight": a,
    }  # fmt: skip
    norms = gather_norms(*adapter(tmp_path, state, rank_pattern={"conv": 2}, use_rslora=True)).by_module

    whole = np.linalg.norm(b.astype("f8") @ a.astype("f8")) * 8 / math.sqrt(4)
    conv = np.linalg.norm(conv_b.reshape(16, 2).astype("f8") @ conv_a.reshape(2, -1).astype("f8")) * 8 / math.sqrt(2)
    assert norms == {
        "model.layers.0.mlp.up_proj": pytest.approx(whole, rel=1e-3),
        "model.layers.0.conv": pytest.approx(conv, rel=1e-3),
    }


def test_norm_of_bfloat16_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    a, b = torch.randn(4, 32).bfloat16(), torch.randn(48, 4).bfloat16()
    path, config, _ = adapter(tmp_path, {"x": np.zeros(1, "f4")})
    save_file({f"{FRONT}.q.lora_A.weight": a, f"{FRONT}.q.lora_B.weight": b}, path)
    tensors = gather_adapter(DiskSource(tmp_path, "x"), Facts()).get(AdapterTensors)
    assert isinstance(tensors, AdapterTensors)

    expected = float((b.float() @ a.float()).norm()) * 2
    assert gather_norms(path, config, tensors).by_module == {"model.layers.0.q": pytest.approx(expected, rel=1e-4)}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_norm_that_is_no_number_is_left_out(value: float, tmp_path: Path) -> None:
    a, b = np.full((4, 32), value, "f4"), np.ones((48, 4), "f4")
    state = {f"{FRONT}.q.lora_A.weight": a, f"{FRONT}.q.lora_B.weight": b}

    assert gather_norms(*adapter(tmp_path, state)).by_module == {}


@pytest.mark.parametrize(
    ("a", "b"), [((4, 32), (48, 5)), ((0, 32), (48, 0)), ((), ()), ((4, 32), (2, 48, 4)), ((32,), (32,))]
)
def test_shapes_that_do_not_go_together_have_no_norm(a: Any, b: Any, tmp_path: Path) -> None:
    state = {f"{FRONT}.q.lora_A.weight": np.ones(a, "f4"), f"{FRONT}.q.lora_B.weight": np.ones(b, "f4")}

    assert set(gather_norms(*adapter(tmp_path, state)).by_module) <= {"model.layers.0.q"}


def test_large_files_are_read_only_when_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter(
        tmp_path, {f"{FRONT}.q.lora_A.weight": np.ones((4, 8), "f4"), f"{FRONT}.q.lora_B.weight": np.ones((8, 4), "f4")}
    )
    source = DiskSource(tmp_path, "x")
    facts = gather_adapter(source, Facts())
    known = len(facts.known)
    assert len(with_norms(source, facts, None).known) == known + 1
    monkeypatch.setattr("adapter_doctor.gather.norms.UNASKED", 10)

    assert UNASKED > 10
    assert len(with_norms(source, facts, None).known) == known
    assert len(with_norms(source, facts, False).known) == known
    assert len(with_norms(source, facts, True).known) == known + 1
