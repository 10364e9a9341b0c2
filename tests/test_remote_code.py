"""Names of a base's own code against those of transformers' class: named as the reason, with the pins, and mended exactly."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from adapter_doctor import Report, check, fix, knowledge
from adapter_doctor.facts import BaseModules, Module
from adapter_doctor.knowledge.remote_code import RemoteModel, built_in_after, match, remote_models
from adapter_doctor.loading.process import LoadingChild
from adapter_doctor.remote_code import recognise
from adapter_doctor.renames import renamed

SCALING = 1.5
PREFIX = "base_model.model."
HIDDEN, INNER, QUERY, KEY, HEAD = 32, 48, 32, 16, 8
TEXT = {
    "vocab_size": 64, "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 2, "pad_token_id": 0,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
ENCODER = {name: value for name, value in TEXT.items() if name != "num_key_value_heads"}

Rows = Any
"""Which rows of the remote layer are those of the built-in one, in their order; None: all."""


def stacked(*sizes: int) -> list[Rows]:
    """One part behind the other."""
    return [rows.tolist() for rows in torch.arange(sum(sizes)).split(list(sizes))]


def grouped(heads: int = 2, groups: int = 2) -> list[Rows]:
    """As `rearrange(wqkv, "(h gs d) z -> h gs d z")` in transformers' conversion of InternVL takes InternLM2's apart."""
    rows = torch.arange(heads * (groups + 2) * HEAD).reshape(heads, groups + 2, HEAD)
    return [rows[:, :groups].flatten().tolist(), rows[:, -2].flatten().tolist(), rows[:, -1].flatten().tolist()]


QKV = stacked(QUERY, KEY, KEY)
THIRDS = stacked(HIDDEN, HIDDEN, HIDDEN)


def attention(path: str, rows: list[Rows], leaves: Sequence[str] = "qkv") -> dict[str, Rows]:
    return {path.format(leaf): own for leaf, own in zip(leaves, rows, strict=True)}


@dataclass(frozen=True)
class Case:
    """A built-in model, and the layers of its remote twin: where their rows are. `#` stands for both layers' numbers."""

    name: str
    config: Callable[[], Any]
    layers: Mapping[str, Mapping[str, Rows]]
    says: tuple[str, ...]
    pin: str
    auto: str = "AutoModelForCausalLM"
    task: str | None = "CAUSAL_LM"
    cause: str = "AD311"
    base: str = ""


CASES = (
    Case("phi", lambda: transformers.PhiConfig(**TEXT | {"num_key_value_heads": 4}),
         {"transformer.h.#.mixer.Wqkv": attention("model.layers.#.self_attn.{}_proj", THIRDS),
          "transformer.h.#.mixer.out_proj": {"model.layers.#.self_attn.dense": None},
          "transformer.h.#.mlp.fc1": {"model.layers.#.mlp.fc1": None}},
         ("modeling_phi.py", "built in since 4.37"), "'transformers<4.37'"),
    Case("phi-4.36", lambda: transformers.PhiConfig(**TEXT | {"num_key_value_heads": 4}),
         {"model.layers.#.self_attn.query_key_value": attention("model.layers.#.self_attn.{}_proj", grouped(4, 1))},
         ("transformers 4.36's class", "one key/value head after the other"), "'transformers>=4.36,<4.37'", cause="AD312"),
    Case("glm", lambda: transformers.GlmConfig(**TEXT, head_dim=HEAD),
         {"transformer.encoder.layers.#.self_attention.query_key_value": attention("model.layers.#.self_attn.{}_proj", QKV),
          "transformer.encoder.layers.#.self_attention.dense": {"model.layers.#.self_attn.o_proj": None},
          "transformer.encoder.layers.#.mlp.dense_h_to_4h": {"model.layers.#.mlp.gate_up_proj": None},
          "transformer.encoder.layers.#.mlp.dense_4h_to_h": {"model.layers.#.mlp.down_proj": None}},
         ("modeling_chatglm.py", "built in since 4.46"), "'transformers<4.46'"),
    Case("glm, PEFT's default targets", lambda: transformers.GlmConfig(**TEXT, head_dim=HEAD),
         {"transformer.encoder.layers.#.self_attention.query_key_value": attention("model.layers.#.self_attn.{}_proj", QKV)},
         ("modeling_chatglm.py", "`query_key_value` holds the rows of `q_proj`, `k_proj`, `v_proj`"), "'transformers<4.46'", cause="AD312"),
    Case("olmo", lambda: transformers.OlmoConfig(**TEXT),
         {"model.transformer.blocks.#.att_proj": attention("model.layers.#.self_attn.{}_proj", QKV),
          "model.transformer.blocks.#.attn_out": {"model.layers.#.self_attn.o_proj": None},
          "model.transformer.blocks.#.ff_proj": attention("model.layers.#.mlp.{}_proj", stacked(INNER, INNER), ["up", "gate"]),
          "model.transformer.blocks.#.ff_out": {"model.layers.#.mlp.down_proj": None}},
         ("modeling_olmo.py",), "'transformers<4.40'"),
    Case("florence2", lambda: transformers.Florence2Config(
            text_config={"model_type": "bart", "vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
                         "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
            vision_config={"embed_dim": [16, 32, 32, 32], "depths": [1] * 4, "num_heads": [2] * 4, "num_groups": [2] * 4,
                           "projection_dim": 32, "window_size": 2}),
         {"language_model.model.decoder.layers.#.encoder_attn.q_proj": {"model.language_model.decoder.layers.#.encoder_attn.q_proj": None},
          "language_model.model.encoder.layers.#.fc2": {"model.language_model.encoder.layers.#.fc2": None},
          "language_model.lm_head": {"lm_head": None},
          **{f"vision_tower.blocks.{n}.0.{part}_block.{mine}": {f"model.vision_tower.blocks.{n}.0.{part}_block.{own}": None}
             for n in range(4) for part, mine, own in (("spatial", "window_attn.fn.qkv", "window_attn.qkv"), ("channel", "ffn.fn.net.fc1", "ffn.fc1"))}},
         ("modeling_florence2.py",), "'transformers<4.56'", "AutoModelForImageTextToText"),
    Case("internvl with InternLM2", lambda: transformers.InternVLConfig(
            text_config={"model_type": "llama", **TEXT},
            vision_config={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": [28, 28]}),
         {"language_model.model.layers.#.attention.wqkv": attention("model.language_model.layers.#.self_attn.{}_proj", grouped()),
          "language_model.model.layers.#.attention.wo": {"model.language_model.layers.#.self_attn.o_proj": None},
          "language_model.model.layers.#.feed_forward.w2": {"model.language_model.layers.#.mlp.down_proj": None},
          "vision_model.encoder.layers.#.attn.qkv": attention("model.vision_tower.encoder.layer.#.attention.{}_proj", THIRDS),
          "vision_model.encoder.layers.#.attn.proj": {"model.vision_tower.encoder.layer.#.attention.projection_layer": None},
          "mlp1.3": {"model.multi_modal_projector.linear_2": None}},
         ("modeling_internvl_chat.py",), "'transformers<4.52'", "AutoModelForImageTextToText", None),
    Case("ovis2", lambda: transformers.Ovis2Config(
            text_config={"model_type": "qwen2", **TEXT}, hidden_size=HIDDEN, vocab_size=64,
            vision_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 28, "vocab_size": 64}),
         {"llm.model.layers.#.self_attn.v_proj": {"model.language_model.layers.#.self_attn.v_proj": None},
          "llm.model.layers.#.mlp.gate_proj": {"model.language_model.layers.#.mlp.gate_proj": None}},
         ("modeling_ovis.py",), "'transformers<4.56'", "AutoModelForImageTextToText", None),
    Case("nomic-bert", lambda: transformers.NomicBertConfig(**ENCODER),
         {"encoder.layers.#.attn.Wqkv": attention("layers.#.self_attn.{}_proj", THIRDS),
          "encoder.layers.#.attn.out_proj": {"layers.#.self_attn.o_proj": None},
          "encoder.layers.#.mlp.fc11": {"layers.#.mlp.up_proj": None},
          "encoder.layers.#.mlp.fc12": {"layers.#.mlp.gate_proj": None},
          "encoder.layers.#.mlp.fc2": {"layers.#.mlp.down_proj": None}},
         ("modeling_hf_nomic_bert.py",), "'transformers<5.5'", "AutoModel", "FEATURE_EXTRACTION"),
    Case("nomic-bert with a head", lambda: transformers.NomicBertConfig(**ENCODER),
         {"bert.encoder.layers.#.attn.Wqkv": attention("nomic_bert.layers.#.self_attn.{}_proj", THIRDS),
          "bert.encoder.layers.#.mlp.fc2": {"nomic_bert.layers.#.mlp.down_proj": None}},
         ("modeling_hf_nomic_bert.py",), "'transformers<5.5'", "AutoModelForMaskedLM", None),
    Case("jina-embeddings-v3", lambda: transformers.JinaEmbeddingsV3Config(**ENCODER),
         {"roberta.encoder.layers.#.mixer.Wqkv": attention("layers.#.self_attn.{}_proj", THIRDS),
          "roberta.encoder.layers.#.mixer.out_proj": {"layers.#.self_attn.o_proj": None},
          "roberta.encoder.layers.#.mlp.fc1": {"layers.#.mlp.fc1": None}},
         ("jinaai/jina-embeddings-v3",), "'transformers<5.4'", "AutoModel", "FEATURE_EXTRACTION"),
    Case("gte", lambda: transformers.GteConfig(**ENCODER),
         {"new.encoder.layer.#.attention.qkv_proj": attention("layers.#.self_attn.{}_proj", THIRDS),
          "new.encoder.layer.#.attention.o_proj": {"layers.#.self_attn.o_proj": None},
          "new.encoder.layer.#.mlp.up_gate_proj": attention("layers.#.mlp.{}_proj", stacked(INNER, INNER), ["up", "gate"])},
         ("Alibaba-NLP/gte",), "'transformers<5.18'", "AutoModel", "FEATURE_EXTRACTION", "AD312"),  # PEFT itself renames the rest
    Case("internlm2 as llama", lambda: transformers.LlamaConfig(**TEXT),
         {"model.layers.#.attention.wqkv": attention("model.layers.#.self_attn.{}_proj", grouped()),
          "model.layers.#.attention.wo": {"model.layers.#.self_attn.o_proj": None},
          "model.layers.#.feed_forward.w1": {"model.layers.#.mlp.gate_proj": None},
          "model.layers.#.feed_forward.w3": {"model.layers.#.mlp.up_proj": None}},
         ("modeling_internlm2.py", "a copy in the layout of transformers' `llama`"), "'transformers==4.33.2'"),
    Case("qwen as llama", lambda: transformers.LlamaConfig(**TEXT | {"num_key_value_heads": 4}, attention_bias=True),
         {"transformer.h.#.attn.c_attn": attention("model.layers.#.self_attn.{}_proj", THIRDS),
          "transformer.h.#.attn.c_proj": {"model.layers.#.self_attn.o_proj": None},
          "transformer.h.#.mlp.w1": {"model.layers.#.mlp.up_proj": None},
          "transformer.h.#.mlp.w2": {"model.layers.#.mlp.gate_proj": None},
          "transformer.h.#.mlp.c_proj": {"model.layers.#.mlp.down_proj": None}},
         ("modeling_qwen.py", "a copy in the layout of transformers' `llama`"), "'transformers==4.32.0'"),
    Case("exaone as llama", lambda: transformers.LlamaConfig(**TEXT),
         {"transformer.h.#.attn.attention.q_proj": {"model.layers.#.self_attn.q_proj": None},
          "transformer.h.#.attn.attention.out_proj": {"model.layers.#.self_attn.o_proj": None},
          "transformer.h.#.mlp.c_fc_0": {"model.layers.#.mlp.gate_proj": None},
          "transformer.h.#.mlp.c_proj": {"model.layers.#.mlp.down_proj": None}},
         ("modeling_exaone.py", "a copy in the layout of transformers' `llama`"), "`trust_remote_code=True`"),
    Case("llava", lambda: transformers.LlavaConfig(
            text_config={"model_type": "llama", **TEXT},
            vision_config={"model_type": "clip_vision_model", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
                           "intermediate_size": 48, "image_size": 28, "patch_size": 14}),
         {"model.layers.#.self_attn.q_proj": {"model.language_model.layers.#.self_attn.q_proj": None},
          "model.layers.#.mlp.up_proj": {"model.language_model.layers.#.mlp.up_proj": None},
          "model.mm_projector.2": {"model.multi_modal_projector.linear_2": None}},
         ("the llava package", "liuhaotian/llava-v1.5-7b"), "'transformers==4.37.2'", "AutoModelForImageTextToText", None,
         base="liuhaotian/llava-v1.5-7b"),
    Case("deepseek-vl", lambda: transformers.DeepseekVLConfig(
            text_config={"model_type": "llama", **TEXT},
            vision_config={"model_type": "siglip_vision_model", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
                           "intermediate_size": 48, "image_size": 28, "patch_size": 14}),
         {"language_model.model.layers.#.self_attn.k_proj": {"model.language_model.layers.#.self_attn.k_proj": None},
          "language_model.model.layers.#.mlp.down_proj": {"model.language_model.layers.#.mlp.down_proj": None}},
         ("the deepseek_vl package",), "'transformers<4.54'", "AutoModelForImageTextToText", None),
    Case("baichuan as llama", lambda: transformers.LlamaConfig(**TEXT | {"num_key_value_heads": 4}),
         {"model.layers.#.self_attn.W_pack": attention("model.layers.#.self_attn.{}_proj", THIRDS)},
         ("modeling_baichuan.py", "a copy in the layout of transformers' `llama`"), "'transformers==4.29.2'", cause="AD312"),
)  # fmt: skip


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    with LoadingChild() as one:
        yield one


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def numbered(layers: Mapping[str, Mapping[str, Rows]]) -> Iterator[tuple[str, dict[str, Rows]]]:
    for path, parts in layers.items():
        for number in "01" if "#" in path else "0":
            yield path.replace("#", number), {part.replace("#", number): rows for part, rows in parts.items()}


def adapter(folder: Path, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]], **settings: Any) -> Path:
    folder.mkdir()
    state = {f"{PREFIX}{name}.lora_{half}.weight": value.contiguous() for name, both in pairs.items() for half, value in zip("AB", both, strict=True)}  # fmt: skip
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    leaves = sorted({name.rpartition(".")[2] for name in pairs})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": leaves, "base_model_name_or_path": "", **settings}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def assert_one_cause(report: Report, code: str) -> str:
    """The cause's message, its only hit, beside which nothing else stands."""
    assert report.cause is not None, report.open_questions
    assert [one.rule.code for one in report.findings if one.rule.severity == 3 and one.consequence_of is None] == [code]
    (hit,) = report.cause.hits
    return f"{hit.message} — {hit.fix}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_remote_code_is_named_with_its_pin_and_mended_exactly(case: Case, child: LoadingChild, tmp_path: Path) -> None:
    torch.manual_seed(0)
    auto = getattr(transformers, case.auto)
    changed = auto.from_config(case.config())
    changed.save_pretrained(tmp_path / "base")
    pairs = {}
    for path, parts in numbered(case.layers):
        targets = [changed.get_submodule(part).weight for part in parts]
        down, up = torch.randn(2, targets[0].shape[1]), torch.randn(sum(len(one) for one in targets), 2)
        pairs[path] = down, up
        for target, rows in zip(targets, parts.values(), strict=True):
            target.data += SCALING * (up if rows is None else up[rows]) @ down
    mine = adapter(tmp_path / "mine", pairs, task_type=case.task, base_model_name_or_path=case.base)

    repair = fix(tmp_path / "base", mine, tmp_path / "out", child=child, cache=False)

    said = assert_one_cause(repair.before, case.cause)
    assert all(words in said for words in case.says), said
    assert case.pin in said
    assert f" of {len(pairs) * 2} tensors" in said
    assert repair.state == "mended", str(repair)
    base = auto.from_pretrained(tmp_path / "base")
    merged = peft.PeftModel.from_pretrained(base, tmp_path / "out").merge_and_unload().state_dict()
    for name, value in changed.state_dict().items():
        torch.testing.assert_close(merged[name], value, atol=1e-5, rtol=1e-5, msg=name)


def nemotron() -> Any:
    return transformers.NemotronHConfig(
        **TEXT | {"num_hidden_layers": 3}, hybrid_override_pattern="M*-", head_dim=HEAD, mamba_num_heads=4,
        mamba_head_dim=8, ssm_state_size=8, n_groups=1,
    )  # fmt: skip


def test_names_that_peft_itself_converts_are_no_defect(child: LoadingChild, tmp_path: Path) -> None:
    transformers.AutoModelForCausalLM.from_config(nemotron()).save_pretrained(tmp_path / "base")
    pairs = {"backbone.layers.1.mixer.q_proj": (torch.ones(2, 32), torch.ones(32, 2)), "backbone.layers.2.mixer.up_proj": (torch.ones(2, 32), torch.ones(48, 2))}  # fmt: skip

    report = check(
        tmp_path / "base", adapter(tmp_path / "mine", pairs, task_type="CAUSAL_LM"), child=child, cache=False
    )

    assert report.cause is None, report.summary
    assert report.landed is not None
    assert report.landed["landed"] == 4


def test_methods_whose_names_peft_does_not_convert_are_mended(child: LoadingChild, tmp_path: Path) -> None:
    transformers.AutoModelForCausalLM.from_config(nemotron()).save_pretrained(tmp_path / "base")
    mine = adapter(tmp_path / "mine", {}, task_type="CAUSAL_LM", peft_type="LOHA", alpha=3, target_modules=["q_proj"])
    shapes = {"hada_w1_a": (32, 2), "hada_w1_b": (2, 32), "hada_w2_a": (32, 2), "hada_w2_b": (2, 32)}
    state = {f"{PREFIX}backbone.layers.1.mixer.q_proj.{name}": torch.randn(shape) for name, shape in shapes.items()}
    save_file(state, mine / "adapter_model.safetensors")

    repair = fix(tmp_path / "base", mine, tmp_path / "out", child=child, cache=False)

    said = assert_one_cause(repair.before, "AD311")
    assert "modeling_nemotron_h.py" in said
    assert "'transformers<5.3'" in said
    assert repair.state == "mended", str(repair)
    assert {key.replace(".model.layers", ".backbone.layers") for key in load_file(tmp_path / "out" / "adapter_model.safetensors")} == state.keys()  # fmt: skip


def test_updates_that_rows_do_not_tell_apart_are_not_said_to_be_mended(child: LoadingChild, tmp_path: Path) -> None:
    """GPT-NeoX interleaves heads, and nothing says how: the finding stands, and no repair is offered."""
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)).save_pretrained(tmp_path / "base")
    pairs = {f"model.layers.{n}.self_attn.query_key_value": (torch.ones(2, 32), torch.ones(64, 2)) for n in range(2)}

    repair = fix(tmp_path / "base", adapter(tmp_path / "mine", pairs), tmp_path / "out", child=child, cache=False)

    assert repair.state == "refused"
    assert repair.before.cause is not None
    assert repair.before.cause.rule.code == "AD312"
    assert repair.before.cause.hits[0].repairable is False
    assert "remote code" not in repair.before.cause.hits[0].message


GLM_CONFIG = {"head_dim": HEAD, **TEXT}


def test_half_of_an_adapter_is_not_made_to_fit(child: LoadingChild, tmp_path: Path) -> None:
    """Its targets name nothing in the base, so that they could be written anew for just what is there."""
    transformers.AutoModelForCausalLM.from_config(transformers.GlmConfig(**GLM_CONFIG)).save_pretrained(tmp_path / "base")  # fmt: skip
    pairs = {name: (torch.ones(2, into), torch.ones(out, 2)) for name, (out, into) in GLM.items() if ".1.self_attention.dense" not in name}  # fmt: skip

    repair = fix(tmp_path / "base", adapter(tmp_path / "mine", pairs), tmp_path / "out", child=child, cache=False)

    assert repair.state == "refused"
    assert "half of an adapter" in repair.why


LLAMA_CONFIG = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("targets without tensors", "names c_proj, w1, which no tensor is of"),
        ("magnitude of another shape", "has a magnitude of shape [60], expected [96]"),
        ("magnitude without a shape", "has a magnitude of shape [], expected [96]"),
        ("two of a kind", "another fused layer are both taken for"),
        ("no alphas", "the scaling of transformer.h.0.attn.c_attn cannot be told"),
    ],
)
def test_what_is_no_whole_adapter_of_fused_layers_is_refused(
    fault: str, why: str, child: LoadingChild, tmp_path: Path
) -> None:
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA_CONFIG)).save_pretrained(tmp_path / "base")
    paths = [f"{front}.h.{n}.attn.c_attn" for n in range(2) for front in ("transformer", "other")]
    pairs = {path: (torch.ones(2, 32), torch.ones(96, 2)) for path in paths[:: 1 if fault == "two of a kind" else 2]}
    settings: dict[str, Any] = {"base_model_name_or_path": "Qwen/Qwen-7B"}
    if fault == "targets without tensors":
        settings["target_modules"] = ["c_attn", "c_proj", "w1"]
    if fault == "no alphas":
        settings["alpha_pattern"] = [1]
    mine = adapter(tmp_path / "mine", pairs, **settings)
    if "magnitude" in fault:
        shape = (60,) if "another" in fault else ()
        more = {f"{PREFIX}{path}.lora_magnitude_vector": torch.ones(shape) for path in pairs}
        save_file(load_file(mine / "adapter_model.safetensors") | more, mine / "adapter_model.safetensors")
        configured = json.loads((mine / "adapter_config.json").read_text()) | {"use_dora": True}
        (mine / "adapter_config.json").write_text(json.dumps(configured))

    repair = fix(tmp_path / "base", mine, tmp_path / "out", child=child, cache=False)

    assert (repair.state, (tmp_path / "out").exists()) == ("refused", False)
    assert why in repair.why


def test_targets_ranks_and_saved_modules_follow_the_names(child: LoadingChild, tmp_path: Path) -> None:
    transformers.AutoModelForCausalLM.from_config(transformers.GlmConfig(**GLM_CONFIG)).save_pretrained(tmp_path / "base")  # fmt: skip
    ranks = {"query_key_value": 4}
    pairs = {}
    for name, (out, into) in GLM.items():
        rank = ranks.get(name.rpartition(".")[2], 2)
        pairs[name] = torch.randn(rank, into), torch.randn(out, rank)
    settings = {"rank_pattern": ranks, "alpha_pattern": {"query_key_value": 9}, "modules_to_save": ["output_layer"]}
    mine = adapter(tmp_path / "mine", pairs, target_modules=r".*\.(query_key_value|dense|dense_h_to_4h)", **settings)
    head = {f"{PREFIX}transformer.output_layer.weight": torch.randn(64, HIDDEN)}
    save_file(load_file(mine / "adapter_model.safetensors") | head, mine / "adapter_model.safetensors")

    repair = fix(tmp_path / "base", mine, tmp_path / "out", child=child, cache=False)

    assert repair.state == "mended", str(repair)
    told = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert told["target_modules"] == ["gate_up_proj", "k_proj", "o_proj", "q_proj", "v_proj"]
    assert told["modules_to_save"] == ["lm_head"]
    assert {name: told["rank_pattern"][name] for name in ("q_proj", "k_proj", "v_proj")} == dict.fromkeys(("q_proj", "k_proj", "v_proj"), 4)  # fmt: skip
    loaded = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "out")  # fmt: skip
    layer = loaded.base_model.model.model.layers[0]
    assert (layer.self_attn.v_proj.scaling["default"], layer.self_attn.o_proj.scaling["default"]) == (2.25, 1.5)


@pytest.mark.parametrize("name", ["glm", "internlm2 as llama"])
def test_dora_of_fused_layers_is_taken_apart(name: str, child: LoadingChild, tmp_path: Path) -> None:
    """Each row of W + ΔW is given the length that the magnitude says."""
    torch.manual_seed(0)
    case = next(one for one in CASES if one.name == name)
    changed = transformers.AutoModelForCausalLM.from_config(case.config())
    changed.save_pretrained(tmp_path / "base")
    pairs, magnitudes = {}, {}
    for path, parts in numbered(case.layers):
        targets = [changed.get_submodule(part).weight for part in parts]
        down, up = torch.randn(2, targets[0].shape[1]), torch.randn(sum(len(one) for one in targets), 2)
        pairs[path], magnitude = (down, up), 1 + torch.rand(len(up))
        magnitudes[f"{PREFIX}{path}.lora_magnitude_vector"] = magnitude
        for target, rows in zip(targets, parts.values(), strict=True):
            own = slice(None) if rows is None else rows
            raw = target.data + SCALING * up[own] @ down
            target.data = magnitude[own, None] * raw / raw.norm(dim=1, keepdim=True)
    mine = adapter(tmp_path / "mine", pairs, task_type="CAUSAL_LM", use_dora=True)
    save_file(load_file(mine / "adapter_model.safetensors") | magnitudes, mine / "adapter_model.safetensors")

    repair = fix(tmp_path / "base", mine, tmp_path / "out", child=child, cache=False)

    assert repair.state == "mended", str(repair)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    merged = peft.PeftModel.from_pretrained(base, tmp_path / "out").merge_and_unload().state_dict()
    for weight, value in changed.state_dict().items():
        torch.testing.assert_close(merged[weight], value, atol=1e-5, rtol=1e-5, msg=weight)


def test_methods_that_are_not_taken_apart_are_told_where_they_work(child: LoadingChild, tmp_path: Path) -> None:
    transformers.AutoModelForCausalLM.from_config(transformers.GlmConfig(**GLM_CONFIG)).save_pretrained(tmp_path / "base")  # fmt: skip
    mine = adapter(tmp_path / "mine", {}, peft_type="LOHA", alpha=3, target_modules=["query_key_value", "dense"])
    state: dict[str, torch.Tensor] = {}
    for name, (out, into) in GLM.items():
        shapes = {"hada_w1_a": (out, 2), "hada_w1_b": (2, into), "hada_w2_a": (out, 2), "hada_w2_b": (2, into)}
        state |= {f"{PREFIX}{name}.{factor}": torch.ones(shape) for factor, shape in shapes.items()}
    save_file(state, mine / "adapter_model.safetensors")

    repair = fix(tmp_path / "base", mine, tmp_path / "out", child=child, cache=False)

    said = assert_one_cause(repair.before, "AD311")
    assert "adapter-doctor fix" not in said
    assert said.endswith("from before it was built in")
    assert repair.before.cause is not None
    assert repair.before.cause.hits[0].repairable is False
    assert repair.state == "refused"


# ------------------------------------------------------------------------------------------ the other way round


def remote_base(folder: Path, model_type: str, layers: Mapping[str, tuple[int, int]], **config: Any) -> Path:
    """A base whose code is its own and is not run: its checkpoint's names say what modules it has."""
    folder.mkdir()
    auto_map = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    raw = {"model_type": model_type, "architectures": ["OwnForCausalLM"], "auto_map": auto_map, **config}
    (folder / "config.json").write_text(json.dumps(raw))
    save_file({f"{name}.weight": torch.zeros(shape) for name, shape in layers.items()}, folder / "model.safetensors")
    return folder


GLM = {
    f"transformer.encoder.layers.{n}.{name}": shape
    for n in range(2)
    for name, shape in {
        "self_attention.query_key_value": (QUERY + 2 * KEY, HIDDEN), "self_attention.dense": (HIDDEN, QUERY),
        "mlp.dense_h_to_4h": (2 * INNER, HIDDEN),
    }.items()
}  # fmt: skip
INTERNLM2 = {
    f"model.layers.{n}.{name}": shape
    for n in range(2)
    for name, shape in {"attention.wqkv": (QUERY + 2 * KEY, HIDDEN), "attention.wo": (HIDDEN, QUERY)}.items()
}


@pytest.mark.parametrize(
    ("model_type", "layers", "fused", "rows", "says"),
    [
        ("chatglm", GLM, "transformer.encoder.layers.#.self_attention.query_key_value", QKV,
         ("transformers' own `glm`", "modeling_chatglm.py", "glm-4-9b-hf", "'transformers>=4.46'")),
        ("internlm2", INTERNLM2, "model.layers.#.attention.wqkv", grouped(),
         ("`llama`", "modeling_internlm2.py", "the base that it was trained on")),
    ],
    ids=["glm", "internlm2"],
)  # fmt: skip
def test_adapter_of_the_built_in_class_goes_on_a_base_with_remote_code(
    model_type: str, layers: dict[str, Any], fused: str, rows: list[Rows], says: tuple[str, ...], child: LoadingChild,
    tmp_path: Path,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    base = remote_base(tmp_path / "base", model_type, layers, num_attention_heads=4, num_key_value_heads=2)
    pairs = {
        f"model.layers.{n}.self_attn.{leaf}": (torch.randn(2, into), torch.randn(out, 2))
        for n in range(2)
        for leaf, (out, into) in {
            "q_proj": (QUERY, HIDDEN), "k_proj": (KEY, HIDDEN), "v_proj": (KEY, HIDDEN), "o_proj": (HIDDEN, QUERY),
        }.items()
    }  # fmt: skip
    mine = adapter(tmp_path / "mine", pairs, task_type="CAUSAL_LM")

    repair = fix(base, mine, tmp_path / "out", child=child, cache=False)

    said = assert_one_cause(repair.before, "AD311")
    assert all(words in said for words in says), said
    assert repair.state == "mended", str(repair)
    state = load_file(tmp_path / "out" / "adapter_model.safetensors")
    told = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    for number in "01":
        key = PREFIX + fused.replace("#", number)
        down, up = (state[f"{key}.lora_{half}.weight"] for half in "AB")
        alpha = told["alpha_pattern"][fused.rpartition(".")[2]]
        for leaf, own in zip("qkv", rows, strict=True):
            first, second = pairs[f"model.layers.{number}.self_attn.{leaf}_proj"]
            torch.testing.assert_close(alpha / len(down) * up[own] @ down, SCALING * second @ first)


# ---------------------------------------------------------------------------------------------------- silence


def base_of(layers: Mapping[str, tuple[int, int]]) -> BaseModules:
    modules = {"": Module("other")}
    for name, shape in layers.items():
        parts = name.split(".")
        modules |= {path: Module("other") for n in range(1, len(parts)) if (path := ".".join(parts[:n])) not in modules}
        modules[name] = Module("linear", {"weight": shape})
    return BaseModules(modules, "skeleton", "SomeModel")


LLAMA = {
    f"model.layers.{n}.{name}": shape
    for n in range(2)
    for name, shape in {
        "self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32),
        "self_attn.o_proj": (32, 32), "mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32), "mlp.down_proj": (32, 48),
    }.items()
}  # fmt: skip


def outcome(mine: Mapping[str, tuple[int, int]], base: BaseModules, model_type: str, named: str = "") -> Any:
    widths = {path: [(None, into), (out, None)] for path, (out, into) in mine.items()}

    def fits(path: str, name: str) -> bool:
        return base.modules[name].width == mine[path]

    return recognise(mine, base, model_type, fits, widths, named)


def test_prefix_mistakes_are_not_called_remote_code() -> None:
    for front in ("layers", "language_model.model.layers", "transformer.h", "model.model.layers"):
        mine = {name.replace("model.layers", front): shape for name, shape in LLAMA.items()}

        assert outcome(mine, base_of(LLAMA), "llama") is None


def test_prefix_is_called_after_its_code_only_where_the_adapter_names_that_base() -> None:
    base = base_of({name.replace("model.", "model.language_model."): shape for name, shape in LLAMA.items()})

    assert outcome(LLAMA, base, "llava", "lmsys/vicuna-7b-v1.5") is None
    assert outcome(LLAMA, base, "llava", "liuhaotian/LLaVA-v1.5-7b") is not None


def test_fused_layers_of_other_models_are_not_called_remote_code() -> None:
    neox = {f"gpt_neox.layers.{n}.attention.query_key_value": (96, 32) for n in range(2)}
    gpt2 = {f"transformer.h.{n}.attn.c_attn": (64, 32) for n in range(3)}  # and the base has two layers
    wide = {f"transformer.h.{n}.attn.c_attn": (96, 32) for n in range(2)}  # 32 × 3, and the base has 32 + 16 + 16

    assert outcome(neox, base_of(LLAMA), "llama") is None
    assert outcome(gpt2, base_of(LLAMA), "llama") is None
    assert outcome(wide, base_of(LLAMA), "llama") is None


def test_adapter_of_a_known_base_of_another_type_is_not_called_remote_code() -> None:
    mine = {f"transformer.h.{n}.attn.c_attn": (64, 32) for n in range(2)}

    assert outcome(mine, base_of(LLAMA), "llama", "Qwen/Qwen-7B") is not None
    assert outcome(mine, base_of(LLAMA), "llama", "openai-community/gpt2") is None


def test_odd_names_are_nobodys() -> None:
    for odd in ("transformer.h.*.attn.c_attn", "transformer.h.\u00b2.attn.c_attn", "x." * 100_000 + "attn.c_attn"):
        assert outcome({odd: (64, 32)}, base_of(LLAMA), "llama", "Qwen/Qwen-7B") is None


def test_widths_of_another_size_are_not_called_remote_code() -> None:
    mine = {name: (out * 2, into * 2) for name, (out, into) in GLM.items()}

    assert outcome(mine, base_of(LLAMA), "glm") is None


def test_same_names_on_a_base_of_another_type_mean_nothing() -> None:
    glm = {name: shape for name, shape in LLAMA.items() if "mlp" not in name}

    assert outcome(GLM, base_of(glm), "glm") is not None
    assert outcome(GLM, base_of(glm), "qwen3") is None


def test_less_than_half_explained_is_no_explanation() -> None:
    glm = {name: shape for name, shape in LLAMA.items() if "mlp" not in name}
    others = {f"transformer.encoder.layers.{n}.adapter.{name}": (32, 32) for n in range(2) for name in "abcd"}

    assert outcome({**GLM, **others}, base_of(glm), "glm") is None


@pytest.mark.parametrize("name", ["PhiConfig", "GlmConfig", "NomicBertConfig"])
def test_healthy_adapter_of_the_built_in_class_is_fine(name: str, child: LoadingChild, tmp_path: Path) -> None:
    sizes = ENCODER | ({"head_dim": HEAD, "num_key_value_heads": 2} if name == "GlmConfig" else {})
    model = transformers.AutoModel.from_config(getattr(transformers, name)(**sizes))
    model.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="FEATURE_EXTRACTION")  # fmt: skip
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "mine")

    report = check(tmp_path / "base", tmp_path / "mine", child=child, cache=False)

    assert report.cause is None, report.summary
    assert "remote code" not in str(report)


# -------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("model", remote_models(), ids=lambda model: model.whose)
def test_entry_is_complete_and_its_renames_do_not_chain(model: RemoteModel) -> None:
    """Steps are made one after the other: what one gives, the next must leave alone, in either direction."""
    assert model.source
    assert model.built_in
    assert model.since or model.repository
    assert len({old for old, _ in model.renames}) == len(model.renames)
    for pairs in (model.renames, tuple((new, old) for old, new in model.renames)):
        for number, (_, new) in enumerate(pairs):
            given = f"some.{'.'.join(new).replace('**', 'layers.0.mlp.up_proj').replace('*', '1')}".split(".")
            later = [old for old, then in pairs[number + 1 :] if then != new and match(given, old) is not None]
            assert later == [] or model.built_in == ("internvl",), later


def test_every_model_of_the_table_has_a_case() -> None:
    told = " ".join(words for case in CASES for words in case.says)
    untold = {
        one.built_in[0]
        for one in remote_models()
        if one.whose.partition(",")[0] not in told and one.whose.split()[-1] not in told
    }

    assert untold <= {"olmo", "phi4_multimodal", "kimi_k25", "nemotron_h", "molmo2", "janus", "got_ocr2"}, untold


CONVERTED = [model for model in remote_models() if "conversion_mapping" in model.source]


@pytest.mark.parametrize("model", CONVERTED, ids=lambda model: model.built_in[0])
def test_entry_says_what_transformers_itself_does_to_such_a_checkpoint(model: RemoteModel) -> None:
    classes = {"molmo2": ["Molmo2TextModel"]}.get(model.built_in[0], [])
    steps = [step for name in (*model.built_in, *classes) for step in knowledge.conversions(name)]

    def given(pattern: Sequence[str]) -> str:
        path = ".".join(pattern).replace("**", "layers.0.mlp.up_proj").replace("*", "0") + "."
        for step in steps:
            if step.kind == "rename":
                for old, new in zip(step.sources, step.targets * len(step.sources), strict=False):
                    path = re.sub(old, new, path, count=1)
        return path.removesuffix(".")

    for old, new in model.renames:
        assert f".{given(old)}".endswith(f".{'.'.join(new).replace('**', 'layers.0.mlp.up_proj').replace('*', '0')}")
    for one in model.fusions:
        path = given(one.remote)
        (step,) = [step for step in steps if step.kind == "convert" and step.sources[0].removesuffix(".weight") in path]
        source = step.sources[0].removesuffix(".weight")
        parts = [path.replace(source, target.removesuffix(".weight")) for target in step.targets]
        assert step.operations[0] in ("Chunk(dim=0)", "Split(dim=0)")
        assert [part.endswith(".".join(own).replace("*", "0")) for part, own in zip(parts, one.parts, strict=True)] == [
            True
        ] * len(parts)


def test_new_model_types_have_no_older_release() -> None:
    assert built_in_after("internvl", "4.51")
    assert not built_in_after("internvl", "4.57")
    assert built_in_after("nomic_bert", "4.57")
    assert not built_in_after("llava", "4.51")
    assert not built_in_after("vit", "4.57")


def test_rename_is_the_one_that_the_report_shows() -> None:
    glm = {name: shape for name, shape in LLAMA.items() if "mlp" not in name}
    found = outcome(GLM, base_of(glm), "glm")

    assert (
        renamed("transformer.encoder.layers.1.self_attention.dense", found.rename) == "model.layers.1.self_attn.o_proj"
    )
    assert (
        found.code.fused["transformer.encoder.layers.1.self_attention.query_key_value"].parts[1]
        == "model.layers.1.self_attn.k_proj"
    )
