"""OFT of older releases of PEFT: mended where BOFT computes the same, else told why not and where it can be merged."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
import transformers
from safetensors.torch import save_file

from adapter_doctor import fix
from adapter_doctor.loading.process import LoadingChild

PREFIX = "base_model.model."
LEAVES = ("q_proj", "v_proj", "down_proj")
# As PEFT 0.15.2 saved it; that release and this conversion gave logits that differ by 6e-8 at most.
CONFIG = {
    "auto_mapping": None, "base_model_name_or_path": "", "bias": "none", "block_share": False, "coft": False, "eps": 6e-05,
    "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True, "init_weights": True, "layers_pattern": None,
    "layers_to_transform": None, "module_dropout": 0.0, "modules_to_save": None, "oft_block_size": 0, "peft_type": "OFT",
    "r": 4, "revision": None, "target_modules": sorted(LEAVES), "task_type": "CAUSAL_LM",
}  # fmt: skip


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    with LoadingChild() as one:
        yield one


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def base(tmp_path: Path) -> Path:
    sizes = {**tiny.by_name("llama").sizes, "attention_bias": True}
    model = tiny.Tiny("", "LlamaConfig", "AutoModelForCausalLM", "CAUSAL_LM", (), sizes).build()
    for name, value in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(value)
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def answer(model: Any) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model(input_ids=torch.arange(3, 15).reshape(2, 6)).logits
    return output


def cayley(blocks: torch.Tensor) -> torch.Tensor:
    """What `_cayley_batch` of PEFT's OFT made of the blocks, from 0.7 to 0.15."""
    skew = 0.5 * (blocks - blocks.transpose(1, 2))
    one = torch.eye(blocks.shape[1])
    return (one - skew) @ torch.linalg.inv(one + skew)


def adapter(folder: Path, state: dict[str, torch.Tensor], **settings: Any) -> Path:
    folder.mkdir()
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | settings))
    return folder


def of_0_15(model: Any, blocks_of: Any, share: bool = False) -> dict[str, torch.Tensor]:
    """Tensors as PEFT 0.15 has them for this model, whose weights become what it computed with them."""
    state: dict[str, torch.Tensor] = {}
    for name, layer in list(model.named_modules()):
        if name.rpartition(".")[2] in LEAVES:
            out, into = layer.weight.shape
            number = blocks_of(into)
            blocks = torch.randn(1 if share else number, into // number, into // number) * 0.3
            scale = 1 + 0.2 * torch.randn(out, 1)
            rotation = torch.block_diag(*cayley(blocks).expand(number, -1, -1))
            layer.weight.data = scale * (rotation @ layer.weight.data.T).T
            state |= {f"{PREFIX}{name}.oft_r": blocks, f"{PREFIX}{name}.oft_s": scale}
    return state


@pytest.mark.parametrize(
    ("settings", "blocks_of", "told"),
    [
        ({"r": 4}, lambda _: 4, (0, 4)),
        ({"r": 0, "oft_block_size": 8}, lambda into: into // 8, (8, 0)),
        ({"r": 4, "block_share": True}, lambda _: 4, (0, 4)),
    ],
    ids=["number of blocks", "size of blocks", "shared"],
)
def test_rotations_and_scales_of_0_15_are_boft(
    settings: dict[str, Any], blocks_of: Any, told: tuple[int, int], base: Path, child: LoadingChild, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    changed = load(base)
    mine = adapter(tmp_path / "old", of_0_15(changed, blocks_of, settings.get("block_share", False)), **settings)

    repair = fix(base, mine, tmp_path / "out", child=child, cache=False)

    assert repair.state == "mended", str(repair)
    assert repair.before.cause is not None
    assert repair.before.cause.rule.code == "AD224"
    assert repair.before.cause.hits[0].repairable
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["boft_block_size"], config["boft_block_num"], config["boft_n_butterfly_factor"]) == (*told, 1)
    assert not {"r", "oft_block_size", "coft", "eps", "block_share", "module_dropout"} & config.keys()
    mended = peft.PeftModel.from_pretrained(load(base), tmp_path / "out").eval()
    torch.testing.assert_close(answer(mended), answer(changed), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(answer(mended), answer(load(base)), atol=1e-4)


def test_rotations_of_what_a_layer_gives_are_told_where_they_work(
    base: Path, child: LoadingChild, tmp_path: Path
) -> None:
    """The update of PEFT 0.13 is D · W. No W · R is that: the rows of W after it have other lengths."""
    torch.manual_seed(0)
    weight: tuple[torch.Tensor, torch.Tensor] | None = None
    state = {}
    for name, layer in load(base).named_modules():
        if name.rpartition(".")[2] in LEAVES:
            blocks = torch.randn(4, len(layer.weight) // 4, len(layer.weight) // 4) * 0.3
            state[f"{PREFIX}{name}.oft_r"] = blocks
            weight = layer.weight.data, torch.block_diag(*cayley(blocks)).T @ layer.weight.data
    assert weight is not None
    before, after = weight
    assert not torch.allclose(before.norm(dim=1), after.norm(dim=1), atol=1e-3)  # which a rotation of the input keeps
    mine = adapter(tmp_path / "old", state)
    config = {key: value for key, value in CONFIG.items() if key not in ("oft_block_size", "bias", "fan_in_fan_out", "exclude_modules")}  # fmt: skip
    (mine / "adapter_config.json").write_text(json.dumps(config))

    repair = fix(base, mine, tmp_path / "out", child=child, cache=False)

    assert repair.state == "refused"
    assert "rotated what a layer gives" in repair.why
    assert "'peft==0.13.2' 'transformers==4.46.3'" in repair.why
    assert repair.before.cause is not None
    assert repair.before.cause.rule.code == "AD224"
    assert repair.before.cause.hits[0].repairable is False
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("settings", "says"), [({"coft": True}, "coft"), ({"bias": "oft_only"}, "bias")])
def test_what_boft_does_not_compute_is_not_made_boft(
    settings: dict[str, Any], says: str, base: Path, child: LoadingChild, tmp_path: Path
) -> None:
    mine = adapter(tmp_path / "old", of_0_15(load(base), lambda _: 4), **settings)

    repair = fix(base, mine, tmp_path / "out", child=child, cache=False)

    assert repair.state == "refused"
    assert says in repair.why
    assert repair.before.cause is not None
    assert repair.before.cause.hits[0].repairable is False
    assert "'peft==0.15.2'" in (repair.before.cause.hits[0].fix or "")


def test_oft_as_it_is_now_is_left_alone(base: Path, child: LoadingChild, tmp_path: Path) -> None:
    config = peft.OFTConfig(oft_block_size=8, target_modules=list(LEAVES), task_type="CAUSAL_LM", init_weights=False)
    peft.get_peft_model(load(base), config).save_pretrained(tmp_path / "new")

    assert fix(base, tmp_path / "new", tmp_path / "out", child=child, cache=False).state == "healthy"
