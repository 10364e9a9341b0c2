"""Ways in which torch, PEFT, transformers, safetensors and huggingface_hub really fail here, each with its rule."""

from __future__ import annotations

import functools
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny

Fails = Callable[[Path], object]


@dataclass(frozen=True)
class Failure:
    """A call that fails, or only warns, and the code of the rule that the diagnosis must name first."""

    name: str
    code: str
    call: Fails


FAILURES: list[Failure] = []


def fails(code: str) -> Callable[[Fails], Fails]:
    """Enter a function under its name, with the code expected for it."""

    def enter(call: Fails) -> Fails:
        FAILURES.append(Failure(call.__name__, code, call))
        return call

    return enter


@contextmanager
def heard() -> Iterator[list[str]]:
    """What is warned and logged inside, as it would stand in a log."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"[{record.levelname}|{record.filename}:{record.lineno}] {record.getMessage()}")

    listener, library = Listener(logging.WARNING), logging.getLogger("transformers")
    library.addHandler(listener)
    before = library.level
    library.setLevel(logging.WARNING)  # another test may have made it quieter
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield lines
    finally:
        library.removeHandler(listener)
        library.setLevel(before)
        lines.extend(warnings.formatwarning(one.message, one.category, one.filename, one.lineno) for one in caught)


# --------------------------------------------------------------------------------------------------- what they fail with


@functools.cache
def _torch() -> Any:
    import torch

    return torch


def _net(hidden: int = 8, layers: int = 2, classes: int = 3, head: str = "head", rows: int = 20) -> Any:
    nn = _torch().nn

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = nn.Embedding(rows, hidden)
            self.layers = nn.ModuleList([nn.Linear(hidden, hidden) for _ in range(layers)])
            setattr(self, head, nn.Linear(hidden, classes))

    return Net()


def _llama(**sizes: Any) -> Any:
    import transformers

    recipe = tiny.by_name("llama")
    return transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**{**recipe.sizes, **sizes}))


def _adapter(folder: Path, base: Any = None, *, embeddings: str | bool = "auto", **config: Any) -> Path:
    """A saved LoRA for a tiny Llama."""
    import peft

    settings = {"r": 4, "target_modules": ["q_proj", "k_proj", "v_proj"], "task_type": "CAUSAL_LM", **config}
    model = peft.get_peft_model(base if base is not None else _llama(), peft.LoraConfig(**settings))
    tiny.train_by_chance(model)
    model.save_pretrained(folder, save_embedding_layers=embeddings)
    return folder


def _edit(folder: Path, **changes: Any) -> Path:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in {**config, **changes}.items() if value != "gone"}))
    return folder


def _load(folder: Path, base: Any = None, **options: Any) -> Any:
    import peft

    return peft.PeftModel.from_pretrained(base if base is not None else _llama(), folder, **options)


# ------------------------------------------------------------------------------------------------- plain state dicts


@fails("AD910")
def head_has_another_name(tmp: Path) -> None:
    _net(head="head").load_state_dict(_net(head="fc").state_dict())


@fails("AD901")
def saved_from_data_parallel(tmp: Path) -> None:
    _net().load_state_dict(_torch().nn.DataParallel(_net()).state_dict())


@fails("AD901")
def saved_from_a_compiled_model(tmp: Path) -> None:
    _net().load_state_dict(_torch().compile(_net()).state_dict())


@fails("AD901")
def plain_state_dict_into_a_compiled_model(tmp: Path) -> None:
    _torch().compile(_net()).load_state_dict(_net().state_dict())


@fails("AD901")
def trunk_of_a_model_into_the_model(tmp: Path) -> None:
    _llama().model.load_state_dict(_llama().state_dict())


@fails("AD902")
def whole_training_checkpoint(tmp: Path) -> None:
    model = _net()
    saved = {"model_state_dict": model.state_dict(), "optimizer_state_dict": {}, "epoch": 3, "loss": 0.1}
    model.load_state_dict(saved)


@fails("AD902")
def checkpoint_of_one_entry(tmp: Path) -> None:
    model = _net()
    model.load_state_dict({"state_dict": model.state_dict()})


@fails("AD902")
def optimizer_state_into_the_model(tmp: Path) -> None:
    model = _net()
    model.load_state_dict(_torch().optim.AdamW(model.parameters()).state_dict())


@fails("AD906")
def another_number_of_labels(tmp: Path) -> None:
    _net(classes=3).load_state_dict(_net(classes=5).state_dict())


@fails("AD906")
def body_without_the_head(tmp: Path) -> None:
    state = {key: value for key, value in _llama().state_dict().items() if not key.startswith("lm_head")}
    _llama().load_state_dict(state)


@fails("AD907")
def another_vocabulary(tmp: Path) -> None:
    _net(rows=20).load_state_dict(_net(rows=24).state_dict())


@fails("AD908")
def model_is_deeper(tmp: Path) -> None:
    _llama(num_hidden_layers=5).load_state_dict(_llama().state_dict())


@fails("AD908")
def model_is_shallower(tmp: Path) -> None:
    _llama(num_hidden_layers=2).load_state_dict(_llama().state_dict())


@fails("AD909")
def model_is_wider(tmp: Path) -> None:
    _llama(hidden_size=64).load_state_dict(_llama().state_dict())


@fails("AD911")
def another_architecture(tmp: Path) -> None:
    _llama().load_state_dict(tiny.by_name("gpt2").build().state_dict())


@fails("AD912")
def one_tensor_lacks(tmp: Path) -> None:
    state = _llama().state_dict()
    del state["model.norm.weight"]
    _llama().load_state_dict(state)


@fails("AD903")
def adapter_into_the_bare_base(tmp: Path) -> None:
    from safetensors.torch import load_file

    _llama().load_state_dict(load_file(_adapter(tmp) / "adapter_model.safetensors"))


@fails("AD904")
def base_into_the_peft_model(tmp: Path) -> None:
    import peft

    model = peft.get_peft_model(_llama(), peft.LoraConfig(target_modules=["q_proj"]))
    model.load_state_dict(_llama().state_dict())


@fails("AD905")
def adapter_strictly_into_the_peft_model(tmp: Path) -> None:
    import peft

    model = peft.get_peft_model(_llama(), peft.LoraConfig(target_modules=["q_proj"]))
    model.load_state_dict({key: value for key, value in model.state_dict().items() if "lora_" in key})


# ---------------------------------------------------------------------------------------------- adapters of other sizes


@fails("AD211")
def rank_in_the_config_was_edited(tmp: Path) -> None:
    _load(_edit(_adapter(tmp), r=8))


@fails("AD314")
def adapter_of_a_narrower_base(tmp: Path) -> None:
    _load(_adapter(tmp), _llama(hidden_size=64))


@fails("AD306")
def base_with_other_key_value_heads(tmp: Path) -> None:
    _load(_adapter(tmp), _llama(num_key_value_heads=4))


@fails("AD308")
def base_was_not_resized(tmp: Path) -> None:
    base = _llama()
    base.resize_token_embeddings(tiny.VOCABULARY + 5)
    _load(_adapter(tmp, base, modules_to_save=["embed_tokens", "lm_head"]))


@fails("AD308")
def adapted_embedding_was_not_resized(tmp: Path) -> None:
    base = _llama()
    base.resize_token_embeddings(tiny.VOCABULARY + 5)
    _load(_adapter(tmp, base, target_modules=["embed_tokens"], embeddings=False))


@fails("AD209")
def tensors_without_elements(tmp: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = _adapter(tmp) / "adapter_model.safetensors"
    save_file({key: _torch().empty(0) for key in load_file(path)}, path)
    _load(tmp)


def _rewritten(folder: Path, change: Callable[[str, Any], Any]) -> Path:
    """The adapter with each tensor changed, or left out where it becomes None."""
    import safetensors.torch

    path = folder / "adapter_model.safetensors"
    changed = {name: change(name, tensor) for name, tensor in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, path)
    return folder


@fails("AD931")
def adapter_of_flattened_tensors(tmp: Path) -> None:
    _load(_rewritten(_adapter(tmp), lambda _, tensor: tensor.flatten()))


@fails("AD931")
def state_dict_of_one_process_of_two(tmp: Path) -> None:
    state = _llama().state_dict()
    _llama().load_state_dict({name: tensor.flatten()[: tensor.numel() // 2] for name, tensor in state.items()})


@fails("AD224")
def merged_layers_of_the_first_peft(tmp: Path) -> None:
    torch = _torch()
    gpt2 = tiny.by_name("gpt2")
    adapter = _adapter(tmp, gpt2.build(), target_modules=["c_attn"], fan_in_fan_out=True)
    shapes = {"lora_A": (8, 32), "lora_B": (64, 4, 1)}  # as PEFT 0.2 saved query and value of the three, of rank 4
    _load(_rewritten(adapter, lambda name, _: torch.zeros(shapes[name.split(".")[-2]])), gpt2.build())


@fails("AD317")
def saved_head_is_not_in_the_file(tmp: Path) -> None:
    adapter = _adapter(tmp, modules_to_save=["lm_head"])
    _load(_rewritten(adapter, lambda name, tensor: None if "lm_head" in name else tensor))


@fails("AD503")
def keys_without_a_level(tmp: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = _adapter(tmp) / "adapter_model.safetensors"
    save_file({key.replace("model.model.", "model."): value for key, value in load_file(path).items()}, path)
    _load(tmp)


@fails("AD311")
def transformers_reports_a_lost_level(tmp: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = _adapter(tmp) / "adapter_model.safetensors"
    save_file({key.replace("model.model.", "model.inner."): value for key, value in load_file(path).items()}, path)
    _llama().load_adapter(str(tmp))


@fails("AD211")
def transformers_reports_another_rank(tmp: Path) -> None:
    _llama().load_adapter(str(_edit(_adapter(tmp), r=8)))


# ------------------------------------------------------------------------------------------------------- PEFT's config


@fails("AD101")
def folder_without_an_adapter(tmp: Path) -> None:
    _load(tmp)


@fails("AD201")
def config_without_weights(tmp: Path) -> None:
    (_adapter(tmp) / "adapter_model.safetensors").unlink()
    _load(tmp)


@fails("AD103")
def peft_type_is_gone(tmp: Path) -> None:
    _load(_edit(_adapter(tmp), peft_type="gone"))


@fails("AD104")
def peft_type_is_misspelt(tmp: Path) -> None:
    _load(_edit(_adapter(tmp), peft_type="LORAA"))


@fails("AD106")
def field_of_a_newer_release(tmp: Path) -> None:
    _load(_edit(_adapter(tmp), from_the_future=True))


@fails("AD107")
def bias_is_null(tmp: Path) -> None:
    _load(_edit(_adapter(tmp), bias=None))


@fails("AD107")
def rank_is_zero(tmp: Path) -> None:
    _load(_edit(_adapter(tmp), r=0))


@fails("AD111")
def task_type_is_unknown(tmp: Path) -> None:
    _load(_edit(_adapter(tmp), task_type="CHAT"))


@fails("AD301")
def targets_of_another_architecture(tmp: Path) -> None:
    _load(_edit(_adapter(tmp), target_modules=["c_attn"]))


@fails("AD301")
def targets_are_no_regular_expression_here(tmp: Path) -> None:
    _load(_edit(_adapter(tmp), target_modules=[".*q_proj"]))


@fails("AD107")
def target_was_taken_apart(tmp: Path) -> None:
    _load(_edit(_adapter(tmp), target_modules=list("al-linear")))


@fails("AD108")
def no_targets_at_all(tmp: Path) -> None:
    _load(_edit(_adapter(tmp), target_modules=[]))


@fails("AD301")
def all_targets_excluded(tmp: Path) -> None:
    _load(_edit(_adapter(tmp), exclude_modules=["q_proj", "k_proj", "v_proj"]))


@fails("AD309")
def target_is_a_container(tmp: Path) -> None:
    _load(_edit(_adapter(tmp), target_modules=["self_attn"]))


@fails("AD108")
def no_targets_and_no_default(tmp: Path) -> None:
    import peft

    peft.get_peft_model(_net(), peft.LoraConfig())


@fails("AD306")
def vera_projection_is_too_small(tmp: Path) -> None:
    import peft

    model = peft.get_peft_model(_llama(), peft.VeraConfig(r=4, target_modules=["q_proj"]))
    model.add_adapter("wide", peft.VeraConfig(r=4, target_modules=["gate_proj"]))


@fails("AD306")
def prefix_for_more_heads_than_the_base_has(tmp: Path) -> None:
    import transformers

    torch = _torch()
    base, prefix = _llama(), torch.zeros(1, 4, 5, 8)  # for four heads; the base has two for keys and values
    cache = transformers.DynamicCache(config=base.config)
    for layer in range(base.config.num_hidden_layers):
        cache.update(prefix, prefix, layer)
    base(input_ids=torch.tensor([[1, 2, 3]]), past_key_values=cache)


# ---------------------------------------------------------------------------------------- several adapters, calls, merges


@fails("AD921")
def wrapped_a_second_time(tmp: Path) -> None:
    import peft

    model = peft.get_peft_model(_llama(), peft.LoraConfig(target_modules=["q_proj"]))
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))


@fails("AD922")
def adapter_that_is_not_there(tmp: Path) -> None:
    _load(_adapter(tmp)).set_adapter("other")


@fails("AD922")
def two_adapters_with_bias(tmp: Path) -> None:
    import peft

    config = peft.LoraConfig(target_modules=["q_proj"], bias="all")
    peft.get_peft_model(_llama(), config).add_adapter("second", config)


def _mixture(folder: Path, base: Any) -> None:
    import peft

    config = peft.XLoraConfig(task_type="CAUSAL_LM", hidden_size=32, adapters={"one": str(folder)})
    base.config.use_cache = False
    peft.get_peft_model(base, config)


@fails("AD303")
def mixture_of_an_adapter_of_a_deeper_base(tmp: Path) -> None:
    _mixture(_adapter(tmp, _llama(num_hidden_layers=5)), _llama())


@fails("AD303")
def mixture_of_an_adapter_with_a_head(tmp: Path) -> None:
    _mixture(_adapter(tmp, modules_to_save=["lm_head"]), _llama())


@fails("AD922")
def two_adapters_of_two_types(tmp: Path) -> None:
    import peft

    _load(_adapter(tmp)).add_adapter("second", peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]))


@fails("AD922")
def vera_adapters_of_two_seeds(tmp: Path) -> None:
    import peft

    model = peft.get_peft_model(_llama(), peft.VeraConfig(r=4, target_modules=["q_proj"]))
    model.add_adapter("second", peft.VeraConfig(r=4, target_modules=["q_proj"], projection_prng_key=7))


@fails("AD225")
def adapter_is_called_lora(tmp: Path) -> None:
    _load(_adapter(tmp)).load_adapter(tmp, adapter_name="lora")


@fails("AD111")
def generating_task_on_an_encoder(tmp: Path) -> None:
    import peft

    peft.get_peft_model(tiny.by_name("bert").build(), peft.LoraConfig(target_modules=["query"], task_type="CAUSAL_LM"))


@fails("AD213")
def merge_of_nan(tmp: Path) -> None:
    model = _load(_adapter(tmp), is_trainable=True)
    next(value for name, value in model.named_parameters() if "lora_B" in name).data.fill_(float("nan"))
    model.merge_and_unload(safe_merge=True)


@fails("AD114")
def conversion_that_peft_does_not_do(tmp: Path) -> None:
    import peft

    config = peft.LoraConfig(
        r=4, init_lora_weights="pissa", use_rslora=True, rank_pattern={"q_proj": 2}, task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(_llama(), config)
    model.save_pretrained(tmp, path_initial_model_for_weight_conversion=str(tmp / "initial"))


# --------------------------------------------------------------------------------------------------- torch while training


@fails("AD925")
def adapter_loaded_for_inference_is_trained(tmp: Path) -> None:
    tokens = _torch().tensor([[1, 2, 3]])
    _load(_adapter(tmp))(input_ids=tokens, labels=tokens).loss.backward()


@fails("AD925")
def optimizer_without_parameters(tmp: Path) -> None:
    _torch().optim.AdamW(one for one in _load(_adapter(tmp)).parameters() if one.requires_grad)


@fails("AD306")
def layer_of_another_width(tmp: Path) -> None:
    _torch().nn.Linear(8, 4)(_torch().zeros(2, 6))


@fails("AD926")
def layer_of_another_dtype(tmp: Path) -> None:
    _torch().nn.Linear(8, 4).bfloat16()(_torch().zeros(2, 8))


@fails("AD927")
def base_stays_on_meta(tmp: Path) -> None:
    with _torch().device("meta"):
        base = _llama()
    base.to("cpu")


@fails("AD803")
def optimizer_of_fewer_parameters(tmp: Path) -> None:
    optim = _torch().optim
    saved = optim.AdamW(_net().layers.parameters()).state_dict()
    optim.AdamW(_net().parameters()).load_state_dict(saved)


@fails("AD803")
def optimizer_of_fewer_groups(tmp: Path) -> None:
    optim, net = _torch().optim, _net()
    saved = optim.AdamW(net.parameters()).state_dict()
    groups = [{"params": net.layers.parameters()}, {"params": net.head.parameters(), "lr": 1e-4}]
    optim.AdamW(groups).load_state_dict(saved)


def _stepped(kind: str, net: Any, **options: Any) -> Any:
    optimizer = getattr(_torch().optim, kind)(net.parameters(), **options)
    _backward(net)
    optimizer.step()
    return optimizer


def _backward(net: Any) -> None:
    sum(one.sum() for one in net.parameters()).backward()


@fails("AD804")
def moments_of_other_shapes(tmp: Path) -> None:
    net = _net(hidden=8)
    optimizer = _torch().optim.AdamW(net.parameters(), foreach=False)
    optimizer.load_state_dict(_stepped("AdamW", _net(hidden=12)).state_dict())
    optimizer.param_groups[0].update(foreach=False)
    _backward(net)
    optimizer.step()


@fails("AD806")
def state_of_another_optimizer(tmp: Path) -> None:
    net = _net()
    optimizer = _torch().optim.AdamW(net.parameters())
    saved, groups = _stepped("SGD", _net(), momentum=0.9).state_dict(), optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    _backward(net)
    optimizer.step()


@fails("AD920")
def scheduler_without_the_optimizers_state(tmp: Path) -> None:
    optim = _torch().optim
    optim.lr_scheduler.StepLR(optim.SGD(_net().parameters(), lr=0.1), 2, last_epoch=5)


@fails("AD935")
def trainer_without_a_checkpoint(tmp: Path) -> None:
    import transformers

    arguments = transformers.TrainingArguments(str(tmp / "out"), report_to=[], use_cpu=True)
    transformers.Trainer(_load(_adapter(tmp)), arguments)._load_from_checkpoint(str(tmp / "out"))


@fails("AD935")
def best_checkpoint_is_an_adapters(tmp: Path) -> None:
    _adapter(tmp / "checkpoint-4")
    _torch().load(tmp / "checkpoint-4" / "pytorch_model.bin", weights_only=True)


# ---------------------------------------------------------------------------------------------------------- broken files


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12345\n"


@fails("AD202")
def safetensors_is_a_pointer(tmp: Path) -> None:
    _write(_adapter(tmp) / "adapter_model.safetensors", _POINTER)
    _load(tmp)


@fails("AD203")
def safetensors_is_cut_off(tmp: Path) -> None:
    path = _adapter(tmp) / "adapter_model.safetensors"
    _write(path, path.read_bytes()[:-100])
    _load(tmp)


@fails("AD203")
def safetensors_is_almost_empty(tmp: Path) -> None:
    _write(_adapter(tmp) / "adapter_model.safetensors", b"abc")
    _load(tmp)


@fails("AD204")
def safetensors_header_is_garbage(tmp: Path) -> None:
    _write(_adapter(tmp) / "adapter_model.safetensors", (20).to_bytes(8, "little") + b"x" * 200)
    _load(tmp)


@fails("AD202")
def pickle_is_a_pointer(tmp: Path) -> None:
    _torch().load(_write(tmp / "a.bin", _POINTER), weights_only=True)


@fails("AD204")
def pickle_is_garbage(tmp: Path) -> None:
    _torch().load(_write(tmp / "a.bin", b"\x0bgarbage"), weights_only=True)


@fails("AD204")
def pickle_is_empty(tmp: Path) -> None:
    _torch().load(_write(tmp / "a.bin", b""), weights_only=True)


@fails("AD204")
def archive_is_cut_off(tmp: Path) -> None:
    path = tmp / "optimizer.pt"
    _torch().save(_net().state_dict(), path)
    _torch().load(_write(path, path.read_bytes()[:-300]), weights_only=True)


@fails("AD928")
def pickle_holds_a_module(tmp: Path) -> None:
    _torch().save(_torch().nn.Linear(2, 2), tmp / "whole.pt")
    _torch().load(tmp / "whole.pt")


@fails("AD928")
def pickle_holds_numpy_state(tmp: Path) -> None:
    import numpy

    _torch().save({"numpy": numpy.random.get_state()}, tmp / "rng_state.pth")
    _torch().load(tmp / "rng_state.pth")


@fails("AD313")
def tied_weights_are_saved_plainly(tmp: Path) -> None:
    from safetensors.torch import save_file

    save_file(_llama(tie_word_embeddings=True).state_dict(), tmp / "model.safetensors")


# ------------------------------------------------------------------------------------------------------ models, the Hub


@fails("AD007")
def config_without_a_model_type(tmp: Path) -> None:
    import transformers

    _write(tmp / "config.json", b'{"r": 8}')
    transformers.AutoConfig.from_pretrained(tmp)


@fails("AD402")
def architecture_of_the_future(tmp: Path) -> None:
    import transformers

    _write(tmp / "config.json", b'{"model_type": "llama99"}')
    transformers.AutoConfig.from_pretrained(tmp)


@fails("AD406")
def base_with_code_of_its_own(tmp: Path) -> None:
    import transformers

    _write(tmp / "config.json", b'{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}')
    transformers.AutoConfig.from_pretrained(tmp, trust_remote_code=False)


@fails("AD404")
def model_folder_without_weights(tmp: Path) -> None:
    import transformers

    _llama().config.save_pretrained(tmp)
    transformers.AutoModelForCausalLM.from_pretrained(tmp)


@fails("AD310")
def head_is_made_at_random(tmp: Path) -> None:
    import transformers

    _llama().save_pretrained(tmp)
    transformers.AutoModelForSequenceClassification.from_pretrained(tmp)


@fails("AD909")
def checkpoint_is_wider_than_its_config(tmp: Path) -> None:
    import transformers

    _llama().save_pretrained(tmp)
    transformers.AutoModelForCausalLM.from_pretrained(tmp, intermediate_size=96)


@fails("AD002")
def path_is_taken_for_a_repository(tmp: Path) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download("/no/such/folder/here", "adapter_config.json")


@fails("AD101")
def adapter_path_does_not_exist(tmp: Path) -> None:
    _load(Path("/no/such/folder/here"))


@fails("AD933")
def nothing_is_cached_and_all_is_offline(tmp: Path) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download("owner/name", "config.json", local_files_only=True, cache_dir=tmp)


def _download(tmp: Path, repo: str, revision: str = "main") -> None:
    from hub_server import HubServer
    from huggingface_hub import hf_hub_download

    with HubServer() as hub:
        hub.add("acme/open", {"config.json": b"{}"})
        hub.add("acme/gated", {"config.json": b"{}"}, gated="manual")
        hf_hub_download(repo, "config.json", revision=revision, endpoint=hub.url, cache_dir=tmp, token=False)


@fails("AD003")
def repository_is_gated(tmp: Path) -> None:
    _download(tmp, "acme/gated")


@fails("AD003")
def repository_is_not_there_or_private(tmp: Path) -> None:
    _download(tmp, "acme/nowhere")


@fails("AD004")
def revision_is_not_there(tmp: Path) -> None:
    _download(tmp, "acme/open", "no-such-branch")


@fails("AD403")
def name_that_transformers_no_longer_has(tmp: Path) -> None:
    exec("from transformers import HybridCacheOfLongAgo")


@fails("AD404")
def package_that_is_not_installed(tmp: Path) -> None:
    exec("import bitsandbytes.nn")


@fails("AD932")
def result_of_a_healthy_load_is_printed(tmp: Path) -> object:
    import peft
    from safetensors.torch import load_file

    model = peft.get_peft_model(_llama(), peft.LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"]))
    return peft.set_peft_model_state_dict(model, load_file(_adapter(tmp) / "adapter_model.safetensors"))


def text_of(failure: Failure, folder: Path) -> tuple[BaseException | None, str]:
    """The exception that a failure ends with, if any, and all that is printed of it."""
    import traceback

    error: BaseException | None = None
    shown: object = None
    here = Path.cwd()
    os.chdir(folder)
    try:
        with heard() as lines:
            try:
                shown = failure.call(folder)
            except Exception as raised:
                error = raised
    finally:
        os.chdir(here)
    last = "".join(traceback.format_exception(error)) if error else str(shown or "")
    return error, "\n".join([*lines, last])
