"""LoRA of other libraries, written by their own mathematics, answers through PEFT as it does by that mathematics."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
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

State = dict[str, torch.Tensor]
SCALE = 2.5


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    with LoadingChild() as one:
        yield one


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("foreign")


def base(root: Path, name: str) -> Path:
    if not (root / name).exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tiny.by_name(name).build().save_pretrained(root / name)
    return root / name


def model(root: Path, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, tiny.by_name(name).auto).from_pretrained(base(root, name)).eval()


def factors(one: Any, leaves: tuple[str, ...], rank: int = 4, layers: tuple[int, ...] = (0, 1, 2), size: float = 0.3) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:  # fmt: skip
    """Trained factors, down (r, in) and up (out, r), for the linear layers of these names."""
    torch.manual_seed(7)
    found = {}
    for name, module in one.named_modules():
        chosen = any(f".{layer}." in name for layer in layers) or ".layers." not in name
        if chosen and name.endswith(leaves) and isinstance(module, torch.nn.Linear):
            out, into = module.weight.shape
            found[name] = torch.randn(rank, into) * size, torch.randn(out, rank) * size
    return found


def answer(one: Any) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = one(input_ids=torch.arange(3, 15).reshape(2, 6)).logits
    return output


def by_hand(one: Any, changes: dict[str, torch.Tensor]) -> torch.Tensor:
    """The answer of the base with these updates in its weights."""
    with torch.no_grad():
        for name, delta in changes.items():
            one.get_submodule(name).weight.add_(delta)
    return answer(one)


def proven(root: Path, name: str, folder: Path, expected: torch.Tensor, child: LoadingChild, place: Path) -> Any:
    repair = fix(base(root, name), folder, place, child=child, cache=False)

    assert repair.state == "mended", str(repair)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = peft.PeftModel.from_pretrained(model(root, name), place).eval()
    assert not torch.allclose(answer(model(root, name)), expected, atol=2e-5)
    torch.testing.assert_close(answer(loaded), expected, atol=1e-5, rtol=1e-5)
    return json.loads((place / "adapter_config.json").read_text())


def pairs_interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows in Meta's order, from transformers': the halves of a head become neighbours."""
    return rows.view(heads, 2, -1, rows.shape[-1]).transpose(1, 2).reshape(rows.shape)


def heads_of(one: Any, name: str) -> int:
    config = one.config
    return int(config.num_key_value_heads if "k_proj" in name else config.num_attention_heads)


DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "granite")


@pytest.mark.parametrize("settings", [{"scale": SCALE}, {"scale": SCALE / 2, "alpha": 8.0}], ids=["new", "old"])
@pytest.mark.parametrize("name", DECODERS)
def test_mlx(name: str, settings: dict[str, float], root: Path, child: LoadingChild, tmp_path: Path) -> None:
    """(in, r) and (r, out), the last layers only, scale instead of alpha."""
    one = model(root, name)
    made = factors(one, ("q_proj", "v_proj", "down_proj"), layers=(1, 2))
    folder = tmp_path / "mlx"
    folder.mkdir()
    save_file({f"{key}.{part}": value.t().contiguous() for key, (down, up) in made.items() for part, value in (("lora_a", down), ("lora_b", up))}, folder / "adapters.safetensors")  # fmt: skip
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "dropout": 0.0, **settings}}
    (folder / "adapter_config.json").write_text(json.dumps(config))

    told = proven(root, name, folder, by_hand(one, {key: SCALE * up @ down for key, (down, up) in made.items()}), child, tmp_path / "out")  # fmt: skip

    assert (told["r"], told["lora_alpha"]) == (4, 10)


def test_mlx_dora_and_embedding(root: Path, child: LoadingChild, tmp_path: Path) -> None:
    one = model(root, "llama")
    made = factors(one, ("q_proj",))
    folder = tmp_path / "mlx"
    folder.mkdir()
    state: State = {}
    changes = {}
    for key, (down, up) in made.items():
        weight = one.get_submodule(key).weight.detach()
        length = weight.norm(dim=1) * 1.3
        state |= {f"{key}.lora_a": down.t().contiguous(), f"{key}.lora_b": up.t().contiguous(), f"{key}.m": length}
        whole = weight + SCALE * up @ down
        changes[key] = whole * (length / whole.norm(dim=1))[:, None] - weight
    save_file(state, folder / "adapters.safetensors")
    config = {"fine_tune_type": "dora", "num_layers": 3, "lora_parameters": {"rank": 4, "dropout": 0.0, "scale": SCALE}}
    (folder / "adapter_config.json").write_text(json.dumps(config))

    assert proven(root, "llama", folder, by_hand(one, changes), child, tmp_path / "out")["use_dora"] is True


TORCHTUNE = {
    "q_proj": "attn.q_proj", "k_proj": "attn.k_proj", "v_proj": "attn.v_proj", "o_proj": "attn.output_proj",
    "gate_proj": "mlp.w1", "down_proj": "mlp.w2", "up_proj": "mlp.w3",
}  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_torchtune(name: str, root: Path, child: LoadingChild, tmp_path: Path) -> None:
    """Its q and k rows stand in Meta's order for Llama and Mistral, and as they are for Qwen."""
    one = model(root, name)
    made = factors(one, tuple(TORCHTUNE))
    folder = tmp_path / "torchtune"
    folder.mkdir()
    state: State = {}
    for key, (down, up) in made.items():
        layer, leaf = key.split(".")[2], key.rpartition(".")[2]
        own = f"layers.{layer}.{TORCHTUNE[leaf]}"
        turned = leaf in ("q_proj", "k_proj") and not name.startswith("qwen")
        state[f"{own}.lora_a.weight"] = down
        state[f"{own}.lora_b.weight"] = pairs_interleaved(up, heads_of(one, leaf)) if turned else up
    torch.save(state, folder / "adapter_2.pt")
    torch.save({}, folder / "adapter_1.pt")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 10, "target_modules": ["q_proj"], "peft_type": "LORA"}))  # fmt: skip

    proven(root, name, folder, by_hand(one, {key: SCALE * up @ down for key, (down, up) in made.items()}), child, tmp_path / "out")  # fmt: skip


MISTRAL = {"q_proj": "attention.wq", "k_proj": "attention.wk", "v_proj": "attention.wv", "o_proj": "attention.wo",
           "gate_proj": "feed_forward.w1", "down_proj": "feed_forward.w2", "up_proj": "feed_forward.w3"}  # fmt: skip


def test_mistral_finetune_with_norms(root: Path, child: LoadingChild, tmp_path: Path) -> None:
    one = model(root, "mistral")
    made = factors(one, (*MISTRAL, "lm_head"), size=0.1)
    folder = tmp_path / "mistral"
    folder.mkdir()
    state: State = {"norm.weight": one.model.norm.weight.detach() * 1.5}
    for layer in range(3):
        state[f"layers.{layer}.attention_norm.weight"] = one.model.layers[layer].input_layernorm.weight.detach() * 0.5
        state[f"layers.{layer}.ffn_norm.weight"] = one.model.layers[layer].post_attention_layernorm.weight.detach() * 2
    for key, (down, up) in made.items():
        leaf = key.rpartition(".")[2]
        own = "output" if leaf == "lm_head" else f"layers.{key.split('.')[2]}.{MISTRAL[leaf]}"
        state[f"{own}.lora_A.weight"] = down
        state[f"{own}.lora_B.weight"] = pairs_interleaved(up, heads_of(one, leaf)) if leaf in ("q_proj", "k_proj") else up  # fmt: skip
    save_file(state, folder / "lora.safetensors")
    (folder / "params.json").write_text(json.dumps({"dim": 32, "lora": {"enable": True, "rank": 4, "scaling": SCALE}}))
    with torch.no_grad():
        one.model.norm.weight.mul_(1.5)
        for block in one.model.layers:
            block.input_layernorm.weight.mul_(0.5)
            block.post_attention_layernorm.weight.mul_(2)

    proven(root, "mistral", folder, by_hand(one, {key: SCALE * up @ down for key, (down, up) in made.items()}), child, tmp_path / "out")  # fmt: skip


KOHYA: dict[str, Callable[[str], str]] = {
    "kohya": lambda key: "lora_te_" + key.replace(".", "_"),
    "diffusers": lambda key: f"text_encoder.{key}",
}


@pytest.mark.parametrize("style", KOHYA)
@pytest.mark.parametrize("name", ["llama", "bert", "opt", "phi", "gptj", "roberta"])
def test_kohya_and_diffusers(style: str, name: str, root: Path, child: LoadingChild, tmp_path: Path) -> None:
    """Alpha is a tensor for each module, of its own value; where there is none, the update counts as it is."""
    one = model(root, name)
    made = factors(one, tiny.by_name(name).leaves[:2])
    folder = tmp_path / style
    folder.mkdir()
    state: State = {}
    changes = {}
    for number, (key, (down, up)) in enumerate(made.items()):
        own = KOHYA[style](key)
        ends = ("lora_down.weight", "lora_up.weight") if style == "kohya" else ("lora.down.weight", "lora.up.weight")
        state |= {f"{own}.{ends[0]}": down, f"{own}.{ends[1]}": up}
        if number % 3:
            state[f"{own}.alpha"] = torch.tensor(float(number), dtype=torch.bfloat16)
        changes[key] = (number / 4 if number % 3 else 1.0) * up @ down
    save_file(state, folder / "my-lora.safetensors")

    proven(root, name, folder, by_hand(one, changes), child, tmp_path / "out")


_Q, _K = "model.layers.0.self_attn.q_proj", "lora_model_layers_0_self_attn_q_proj"
_T, _M = "layers.0.attn.q_proj", "layers.0.attention.wq"


@pytest.mark.parametrize(
    ("state", "config"),
    [
        ({f"{_K}.alpha": (), f"{_K}.lora_down.weight": (4, 32), f"{_K}.lora_up.weight": (32, 4)}, {}),
        ({f"{_Q}.lora_a": (32, 0), f"{_Q}.lora_b": (0, 32)}, {"lora_parameters": {"scale": 2.0, "alpha": 4}}),
        ({f"{_Q}.lora_a": (32, 4), f"{_Q}.lora_b": (4, 32)}, {"lora_parameters": {"scale": 1e308, "alpha": 1e308}}),
        ({f"{_T}.lora_a.weight": (4, 32), f"{_T}.lora_b.weight": (32,)}, {"r": 4, "lora_alpha": 8}),
        ({f"{_T}.lora_a.weight": (4, 32), f"{_T}.lora_b.weight": (32, 4)}, {"r": 4, "lora_alpha": 10**400}),
        ({f"{_M}.lora_A.weight": (4, 32), f"{_M}.lora_B.weight": (32, 4, 1)}, {}),
    ],
)
def test_factors_and_scalings_that_are_none_are_refused_in_a_sentence(
    state: dict[str, tuple[int, ...]], config: dict[str, Any], root: Path, child: LoadingChild, tmp_path: Path
) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    save_file({key: torch.full(shape, torch.nan if not shape else 1.0) for key, shape in state.items()}, folder / "adapters.safetensors")  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "params.json").write_text('{"lora": {"scaling": 2.0}}')

    repair = fix(base(root, "llama"), folder, tmp_path / "out", child=child, cache=False)

    assert (repair.state, repair.exit_code) == ("refused", 1)
    assert json.dumps(repair.to_dict(), allow_nan=False, default=str)


@pytest.mark.parametrize(
    ("state", "config", "why"),
    [
        ({"model.layers.0.self_attn.q_proj.lora_a": (32, 4), "model.layers.0.self_attn.q_proj.lora_b": (4, 32)}, {}, "no scaling is guessed"),
        ({"layers.0.attention.wq.lora_A.weight": (4, 32), "layers.0.attention.wq.lora_B.weight": (32, 4)}, {}, "no scaling is guessed"),
        ({"layers.0.attn.q_proj.lora_a.weight": (4, 32), "layers.0.attn.q_proj.lora_b.weight": (32, 4)}, {}, "no alpha is guessed"),
        ({"lora_unet_down_blocks_0.lora_down.weight": (4, 32), "lora_unet_down_blocks_0.lora_up.weight": (32, 4)}, {}, "no module of this base"),
        ({"blk.0.attn_q.weight.lora_a": (4, 32), "blk.0.attn_q.weight.lora_b": (32, 4)}, {}, "no scaling is guessed"),
        ({"model.layers.0.mlp.experts.lora_a": (2, 4, 32), "model.layers.0.mlp.experts.lora_b": (2, 32, 4)}, {"lora_parameters": {"scale": 2.0}}, "no part of this format"),
    ],
)  # fmt: skip
def test_what_the_files_do_not_say_is_not_guessed(
    state: dict[str, tuple[int, ...]], config: dict[str, Any], why: str, root: Path, child: LoadingChild, tmp_path: Path
) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    save_file({key: torch.randn(shape) for key, shape in state.items()}, folder / "adapters.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))

    repair = fix(base(root, "llama"), folder, tmp_path / "out", child=child, cache=False)

    assert repair.state == "refused"
    assert why in repair.why
