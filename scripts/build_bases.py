"""Writes `adapter_doctor/knowledge/bases.json`: the dimensions and modules of base models that people fine-tune.

    python scripts/build_bases.py collect --configs DIR --litgpt config.py --unsloth mapper.py
    python scripts/build_bases.py write

`collect` gathers published configs in `known_bases.jsonl`, and `write` makes the table of it.

`known_bases.jsonl` holds the facts: a line for each base with its id, where its numbers come from, and those fields of
its config that decide the shape of a module, or the base that it is a copy of. `write` builds each with transformers on the meta device and reads the
modules off it, so that the table holds what transformers makes of the numbers; it also counts the parameters, which the
tests compare with the counts that the publishers give. A base without a source is not taken in.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FACTS = Path(__file__).with_name("known_bases.jsonl")
TABLE = Path(__file__).resolve().parent.parent / "adapter_doctor" / "knowledge" / "bases.json"

# Fields of a config that change no shape.
_NO_SHAPE = re.compile(
    r"token_id|token_index|_index$|dropout|drop$|rope|rotary|theta|max_pos|max_seq|seq_len|transformers_version"
    r"|use_cache|eps|epsilon|initializer|window|dtype|act$|act_fn|activation|scal|auto_map|quantization|compression"
    r"|pretraining|id2label|label2id|_name_or_path|loss|coef|aux|softcap|softmax|task_specific|generation|beam|suppress"
    r"|mask_|prefix$|do_sample|length|_penalty|use_flash|fp32|bf16|fp16|topk_method|norm_topk|router_jitter|interval"
    r"|top_k|feature_layer|select_strategy|tokenizer|logit|padding|cross_entropy|multiplier|factor|temperature"
)
_COLLECTED = "config.json as published at https://huggingface.co/{}"
_UNSLOTH = "unsloth/models/mapper.py of https://github.com/unslothai/unsloth (2026.10.9)"
_RENAMED = "the repository's former name: huggingface.co redirects it"
_LITGPT = "litgpt/config.py of https://github.com/Lightning-AI/litgpt (0.5.13)"
# Of litgpt's list: a value that is not the published one, or a base that nobody else names.
_LEFT_OUT = re.compile(r"garage-bAInd/|Trelis/|FreeWilly|Mistral-7B-v0.2$|stablecode-|/Mixtral-8x22B-v0.1$")
_TIED = re.compile(
    r"/(gemma|codegemma|falcon-|Llama-3\.2-|SmolLM2|Phi-4-mini|OLMo-1B|Qwen2\.5-(Coder-|Math-)?(0\.5|1\.5|3)B"
    r"|Qwen3-(0\.6|1\.7|4)B)"
)

# ------------------------------------------------------------------------------------------------ facts


def collect(configs: Path, litgpt: Path, unsloth: Path) -> None:
    """Write the facts: those written here, then litgpt's, each replaced by a config as published where there is one."""
    facts: dict[str, dict[str, Any]]
    facts = {name: {"source": source, "config": config} for name, source, config in written()}
    for name, config in from_litgpt(litgpt):
        facts[name] = {"source": _LITGPT, "config": config}
    for name, source, config in from_configs(configs):
        if name not in facts or source.startswith("config.json"):
            facts[name] = {"source": source, "config": config}
    for name, original in copies(unsloth, set(facts)):
        facts[name] = {"source": _UNSLOTH, "copy_of": original}
    for name in [name for name in facts if name.startswith("meta-llama/Meta-Llama-3.1-")]:
        facts.setdefault(name.replace("Meta-", "", 1), {"source": _RENAMED, "copy_of": name})
    lines = [json.dumps({"id": name, **facts[name]}, sort_keys=True) for name in sorted(facts, key=str.lower)]
    FACTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{FACTS}: {len(lines)} bases")


def from_configs(folder: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Configs in a folder of `OWNER--NAME.json`, told apart by the list beside it: as published, or written from sizes."""
    for line in (folder.parent / "bases.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        name = row["name"].replace("--", "/", 1)
        if "/" not in name or row["provenance"] == "test-variant" or "vocab51201" in name or "-2019" in name:
            continue
        source = _COLLECTED.format(name) if row["provenance"] == "verbatim" else f"the published sizes of {name}"
        yield name, source, shape_fields(json.loads((folder / f"{row['name']}.json").read_text("utf-8")))


def shape_fields(config: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and key.endswith("config") and not _NO_SHAPE.search(key):
            kept[key] = shape_fields(value)
        elif not _NO_SHAPE.search(key) and isinstance(value, (int, list, str, type(None))):
            kept[key] = value
    return kept


def copies(mapper: Path, known: set[str]) -> Iterator[tuple[str, str]]:
    """Ids of copies (re-uploads, 4-bit versions) of known bases, with the base's id, as unsloth lists them."""
    by_lower = {name.lower(): name for name in known}
    for statement in ast.parse(mapper.read_text("utf-8")).body:
        if (
            not isinstance(statement, ast.Assign)
            or not isinstance(statement.value, ast.Dict)
            or "INT_TO_FLOAT" not in ast.unparse(statement.targets[0])
        ):
            continue
        for quantised, others in ast.literal_eval(statement.value).items():
            names = [quantised, *_strings(others)]
            original = next((by_lower[name.lower()] for name in names if name.lower() in by_lower), None)
            yield from ((name, original) for name in names if original and name.lower() not in by_lower)


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for one in (value.values() if isinstance(value, dict) else value) for text in _strings(one)]


def from_litgpt(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """litgpt's list, in the words of transformers' configs."""
    spec = importlib.util.spec_from_file_location("litgpt_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["litgpt_config"] = module
    spec.loader.exec_module(module)
    for row in module.configs:
        one = module.Config(**row)
        name = "/".join(one.hf_config[key] for key in ("org", "name"))
        if _LEFT_OUT.search(name):
            continue
        yield name, _as_transformers(name, one)


def _as_transformers(name: str, one: Any) -> dict[str, Any]:
    model_type = _model_type(name)
    sizes = {"hidden_size": one.n_embd, "intermediate_size": one.intermediate_size, "num_hidden_layers": one.n_layer,
             "num_attention_heads": one.n_head, "vocab_size": one.padded_vocab_size,
             "tie_word_embeddings": bool(_TIED.search(name))}  # fmt: skip
    if model_type not in ("gpt_neox", "falcon"):
        sizes["num_key_value_heads"] = one.n_query_groups
    if model_type in ("qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "gemma3") or "Falcon3" in name:
        sizes["head_dim"] = one.head_size
    if model_type == "falcon":
        del sizes["intermediate_size"]
        new = one.n_query_groups > 1
        sizes |= {"multi_query": True, "parallel_attn": True, "new_decoder_architecture": new, "bias": False,
                  "alibi": False, "num_kv_heads": one.n_query_groups}  # fmt: skip
    if model_type == "mixtral":
        sizes["num_local_experts"] = one.n_expert
    if model_type == "qwen3_moe":
        sizes |= {"num_experts": one.n_expert, "moe_intermediate_size": one.moe_intermediate_size}
    if model_type == "gemma3":  # the language model; the tower is the same in all three sizes (google/gemma-3-4b-it)
        tower = {"hidden_size": 1152, "intermediate_size": 4304, "model_type": "siglip_vision_model",
                 "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14, "image_size": 896,
                 "vision_use_head": False}  # fmt: skip
        text = {**sizes, "model_type": "gemma3_text", "vocab_size": 262208}
        return {"model_type": "gemma3", "text_config": text, "vision_config": tower}
    return {"model_type": model_type, **sizes}


def _model_type(name: str) -> str:
    by_name = (
        ("gemma-3-1b", "gemma3_text"), ("gemma-3-", "gemma3"), ("gemma-2-", "gemma2"), ("gemma", "gemma"),
        ("falcon-", "falcon"), ("Mixtral", "mixtral"), ("istral", "mistral"), ("mathstral", "mistral"),
        ("phi-1_5", "phi"), ("phi-2", "phi"), ("Phi-", "phi3"), ("phi-4", "phi3"), ("OLMo-2", "olmo2"), ("OLMo", "olmo"),
        ("Qwen3-30B", "qwen3_moe"), ("Qwen3-235B", "qwen3_moe"), ("Qwen3", "qwen3"), ("Qw", "qwen2"),
        ("pythia", "gpt_neox"), ("-alpha-", "gpt_neox"), ("stable", "stablelm"),
    )  # fmt: skip
    return next((kind for part, kind in by_name if part in name.rpartition("/")[2]), "llama")


def written() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Bases whose dimensions are in the tables of their papers."""
    opt = "OPT, table 1 (arXiv 2205.01068)"
    for name, layers, heads, width in (
        ("1.3b", 24, 32, 2048), ("2.7b", 32, 32, 2560), ("6.7b", 32, 32, 4096), ("13b", 40, 40, 5120),
        ("30b", 48, 56, 7168), ("66b", 64, 72, 9216),
    ):  # fmt: skip
        yield f"facebook/opt-{name}", opt, {"model_type": "opt", "hidden_size": width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "ffn_dim": 4 * width, "word_embed_proj_dim": width, "vocab_size": 50272,
            "max_position_embeddings": 2048}  # fmt: skip
    bloom = "BLOOM, table 3 (arXiv 2211.05100)"
    for name, layers, heads, width in (("560m", 24, 16, 1024), ("1b1", 24, 16, 1536), ("1b7", 24, 16, 2048),
                                       ("3b", 30, 32, 2560), ("7b1", 30, 32, 4096)):  # fmt: skip
        for kind in ("bloom", "bloomz"):
            yield f"bigscience/{kind}-{name}", bloom, {"model_type": "bloom", "hidden_size": width, "n_layer": layers,
                                                       "n_head": heads, "vocab_size": 250880}  # fmt: skip
    gpt2 = "Language Models are Unsupervised Multitask Learners, table 2"
    for name, layers, heads, width in (("gpt2", 12, 12, 768), ("gpt2-medium", 24, 16, 1024), ("gpt2-large", 36, 20, 1280),
                                       ("gpt2-xl", 48, 25, 1600)):  # fmt: skip
        yield f"openai-community/{name}", gpt2, {"model_type": "gpt2", "n_embd": width, "n_layer": layers,
                                                 "n_head": heads, "vocab_size": 50257}  # fmt: skip
    bert = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    base = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    paper = "BERT, section 3 (arXiv 1810.04805), and its vocabularies"
    for name, sizes, vocabulary in (
        ("bert-base-uncased", base, 30522), ("bert-base-cased", base, 28996), ("bert-large-uncased", large, 30522),
        ("bert-large-cased", large, 28996), ("bert-base-multilingual-cased", base, 119547),
    ):  # fmt: skip
        yield f"google-bert/{name}", paper, {**bert, **sizes, "vocab_size": vocabulary}
    roberta = {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"], "vocab_size": 50265, "type_vocab_size": 1,
               "max_position_embeddings": 514}  # fmt: skip
    yield "FacebookAI/roberta-base", "RoBERTa, section 5 (arXiv 1907.11692)", {**roberta, **base}
    yield "FacebookAI/roberta-large", "RoBERTa, section 5 (arXiv 1907.11692)", {**roberta, **large}
    crosslingual = {
        **roberta,
        "model_type": "xlm-roberta",
        "architectures": ["XLMRobertaForMaskedLM"],
        "vocab_size": 250002,
    }
    yield "FacebookAI/xlm-roberta-base", "XLM-R, table 6 (arXiv 1911.02116)", {**crosslingual, **base}
    yield "FacebookAI/xlm-roberta-large", "XLM-R, table 6 (arXiv 1911.02116)", {**crosslingual, **large}
    t5 = "T5, section 3.7 (arXiv 1910.10683)"
    for name, width, inner, layers, heads in (("small", 512, 2048, 6, 8), ("base", 768, 3072, 12, 12),
                                              ("large", 1024, 4096, 24, 16)):  # fmt: skip
        yield f"google-t5/t5-{name}", t5, {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": width, "d_ff": inner,
            "num_layers": layers, "num_heads": heads, "d_kv": 64, "vocab_size": 32128, "feed_forward_proj": "relu"}  # fmt: skip
    whisper = "Whisper, table 1 (arXiv 2212.04356)"
    for name, layers, width, heads in (("tiny", 4, 384, 6), ("base", 6, 512, 8), ("small", 12, 768, 12),
                                       ("medium", 24, 1024, 16), ("large-v2", 32, 1280, 20)):  # fmt: skip
        yield f"openai/whisper-{name}", whisper, {"model_type": "whisper",
            "architectures": ["WhisperForConditionalGeneration"], "d_model": width, "encoder_layers": layers,
            "decoder_layers": layers, "encoder_attention_heads": heads, "decoder_attention_heads": heads,
            "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width, "vocab_size": 51865}  # fmt: skip


# ------------------------------------------------------------------------------------------------ table


def write() -> None:
    """Build every base on the meta device and write the table."""
    rows = [json.loads(line) for line in FACTS.read_text("utf-8").splitlines()]
    built: dict[str, Any] = {}
    trees: list[list[str]] = []
    bases: dict[str, Any] = {}
    left_out = []
    same = {row["id"]: row["copy_of"] for row in rows if "copy_of" in row}
    for row in (row for row in rows if "config" in row):
        text = json.dumps(row["config"], sort_keys=True)
        if text not in built:
            try:
                built[text] = describe(row["config"])
            except Exception as error:  # named below, to be looked at
                built[text] = f"{type(error).__name__}: {str(error)[:200]}"
        if isinstance(built[text], str):
            left_out.append(f"{row['id']}: {built[text]}")
            continue
        dimensions, modules = built[text]
        paths = sorted(modules)
        if paths not in trees:
            trees.append(paths)
        bases[row["id"]] = {
            **dimensions, "source": row["source"], "tree": trees.index(paths), "modules": [modules[path] for path in paths],
        }  # fmt: skip
    text = json.dumps(
        {
            "written_by": "scripts/build_bases.py",
            "trees": trees,
            "copies": {name: original for name, original in same.items() if original in bases},
        },
        indent=1,
    )[:-2]
    lines = [f"  {json.dumps(name)}: {json.dumps(bases[name], separators=(',', ':'))}" for name in bases]
    TABLE.write_text(f'{text},\n "bases": {{\n' + ",\n".join(lines) + "\n }\n}\n", encoding="utf-8")
    print(f"{TABLE}: {len(bases)} bases, {len(trees)} module trees, {TABLE.stat().st_size / 1000:.0f} kB")
    print("left out:", *left_out, sep="\n  ")


def describe(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | str:
    """The dimensions of a base and its adaptable modules, or why it cannot be built."""
    import torch
    import transformers

    from adapter_doctor import knowledge

    model_type = config.get("model_type")
    if model_type in BY_HAND:
        return BY_HAND[model_type](config)
    if model_type not in transformers.CONFIG_MAPPING:
        return f"transformers has no model type {model_type!r}"
    fields = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    built = transformers.AutoConfig.for_model(model_type, **fields)
    named = next(iter(config.get("architectures") or ()), None)
    with torch.device("meta"):
        kind = getattr(transformers, named, None) if named else None
        if kind is None:
            classes = knowledge.architecture(model_type).classes
            kind = getattr(transformers, next(classes[task] for task in ("CAUSAL_LM", "IMAGE_TEXT") if task in classes))
        model = kind(built)
    model.tie_weights()
    text = built.get_text_config()

    parts = text.to_dict(), built.to_dict()

    def first(*names: str) -> int | None:
        found = (part.get(text.attribute_map.get(name, name)) for part in parts for name in names)
        return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), None)

    hidden, heads = (
        first("hidden_size", "d_model", "n_embd", "dim"),
        first("num_attention_heads", "n_head", "num_heads"),
    )
    dimensions = {
        "model_type": model_type,
        "hidden": hidden,
        "intermediate": first("intermediate_size", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim", "hidden_dim"),
        "layers": first("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"),
        "heads": heads,
        "kv_heads": first("num_kv_heads" if model_type == "falcon" else "num_key_value_heads") or heads,
        "head_dim": first("head_dim", "d_kv") or (hidden // heads if hidden and heads else None),
        "vocab": first("vocab_size"),
        "tied": any(part.get("tie_word_embeddings") for part in parts),
        "parameters": sum(one.numel() for one in model.parameters()),
    }
    return dimensions, modules_of(model, model_type)


def modules_of(model: Any, model_type: str) -> dict[str, Any]:
    """Layers that LoRA can adapt: path with `*` for numbers, to [widths, layers].

    ``widths`` are the distinct (out_features, in_features); ``layers`` is one more than the highest number on the
    path's first numbered level, or 0 without one. Stacked experts are entered under the names that each expert has in
    a checkpoint, which are those of adapters made before the experts were stacked.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    from adapter_doctor import knowledge

    found: dict[str, tuple[set[tuple[int, int]], int]] = {}

    def enter(path: str, width: tuple[int, int]) -> None:
        numbers = [int(part) for part in path.split(".") if part.isdigit()]
        pattern = ".".join("*" if part.isdigit() else part for part in path.split("."))
        widths, layers = found.get(pattern, (set(), 0))
        found[pattern] = widths | {width}, max(layers, numbers[0] + 1 if numbers else 0)

    steps = [step for step in knowledge.conversions(model_type) if step.kind == "convert"]
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            enter(path, (module.out_features, module.in_features))
        elif isinstance(module, torch.nn.Embedding):
            enter(path, (module.embedding_dim, module.num_embeddings))
        elif isinstance(module, Conv1D):
            enter(path, (module.nf, module.nx))
        for own, weight in module.named_parameters(recurse=False):
            if weight.ndim != 3 or not path.endswith("experts"):
                continue
            for step in steps:
                if not f"{path}.{own}".endswith(step.targets[0].removesuffix("$")):
                    continue
                for source in step.sources:
                    leaf = re.sub(r"\.weight\$?$", "", source).rpartition(".")[2]
                    enter(f"{path}.0.{leaf}", (weight.shape[1] // len(step.sources), weight.shape[2]))
    return {path: [sorted(widths), layers] for path, (widths, layers) in found.items()}


# ------------------------------------------------------------------------------------------------ by hand


def _by_hand(config: dict[str, Any], names: dict[str, str], inner: int, kv_heads: int, vocabulary: int) -> Any:
    """A base whose code lies in its repository: its modules as that code names them, widths as sums of sizes."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    layers = config.get("num_layers") or config["num_hidden_layers"]
    head_dim = config.get("kv_channels") or hidden // heads
    sizes = {
        "hidden": hidden,
        "inner": inner,
        "vocab": vocabulary,
        "query": heads * head_dim,
        "kv": kv_heads * head_dim,
    }
    modules = {}
    for path, widths in names.items():
        out, into = (
            sum(int(n or 1) * sizes[name] for n, name in re.findall(r"(\d*)(\w+)", one)) for one in widths.split()
        )
        modules[path] = [[[out, into]], layers if "*" in path else 0]
    # Every one of these counts its parameters without the few in norms and biases.
    dimensions = {"model_type": config["model_type"], "hidden": hidden, "intermediate": inner, "layers": layers,
                  "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "vocab": vocabulary, "tied": False,
                  "parameters": sum(max(1, n) * w[0][0] * w[0][1] for w, n in modules.values())}  # fmt: skip
    return dimensions, modules


def _qwen(config: dict[str, Any]) -> Any:
    names = {"transformer.wte": "hidden vocab", "lm_head": "vocab hidden", "transformer.h.*.attn.c_attn": "3query hidden",
             "transformer.h.*.attn.c_proj": "hidden query", "transformer.h.*.mlp.w1": "inner hidden",
             "transformer.h.*.mlp.w2": "inner hidden", "transformer.h.*.mlp.c_proj": "hidden inner"}  # fmt: skip
    if "visual" in config or "intermediate_size" not in config:
        return "it is not the plain language model"
    return _by_hand(
        config, names, config["intermediate_size"] // 2, config["num_attention_heads"], config["vocab_size"]
    )


def _chatglm(config: dict[str, Any]) -> Any:
    layer = "transformer.encoder.layers.*."
    names = {"transformer.embedding.word_embeddings": "hidden vocab", "transformer.output_layer": "vocab hidden",
             f"{layer}self_attention.query_key_value": "query+2kv hidden", f"{layer}self_attention.dense": "hidden query",
             f"{layer}mlp.dense_h_to_4h": "2inner hidden", f"{layer}mlp.dense_4h_to_h": "hidden inner"}  # fmt: skip
    if "vision_config" in config:
        return "it is not the plain language model"
    return _by_hand(
        config, names, config["ffn_hidden_size"], config["multi_query_group_num"], config["padded_vocab_size"]
    )


def _baichuan(config: dict[str, Any]) -> Any:
    layer = "model.layers.*."
    names = {"model.embed_tokens": "hidden vocab", "lm_head": "vocab hidden", f"{layer}self_attn.W_pack": "3hidden hidden",
             f"{layer}self_attn.o_proj": "hidden hidden", f"{layer}mlp.gate_proj": "inner hidden",
             f"{layer}mlp.up_proj": "inner hidden", f"{layer}mlp.down_proj": "hidden inner"}  # fmt: skip
    return _by_hand(config, names, config["intermediate_size"], config["num_attention_heads"], config["vocab_size"])


BY_HAND = {"qwen": _qwen, "chatglm": _chatglm, "baichuan": _baichuan}
"""Model types whose code transformers does not have, read in the modelling files of their repositories."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["collect", "write"])
    parser.add_argument("--configs", type=Path, help="folder of published configs, OWNER--NAME.json")
    parser.add_argument("--litgpt", type=Path, help="litgpt/config.py")
    parser.add_argument("--unsloth", type=Path, help="unsloth/models/mapper.py")
    arguments = parser.parse_args()
    if arguments.step == "write":
        write()
    else:
        collect(arguments.configs, arguments.litgpt, arguments.unsloth)


if __name__ == "__main__":
    main()
