"""Checkpoints that FSDP2 really saved, with one process on the CPU, in the folders where the Trainer puts them.

The calls are those of accelerate 1.15 (utils/fsdp_utils.py), which the Trainer hands this to. The Trainer itself gives
FSDP to GPUs alone; held beside its own folders with two processes, names and structure were the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tiny
import training


@contextmanager
def process_group(folder: Path) -> Iterator[None]:
    """A group of this process alone."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def sharded_model(**config: Any) -> tuple[Any, Any]:
    """A PeftModel whose layers are sharded, and its optimizer, with the groups that the Trainer makes."""
    import torch
    from peft import get_peft_model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import Trainer

    model = get_peft_model(tiny.by_name("llama").build(), training.lora(**config))
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    mesh = init_device_mesh("cpu", (1,))
    for layer in model.base_model.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    groups = [
        {"params": [one for name, one in named if (name in decayed) == decays], "weight_decay": 0.1 * decays}
        for decays in (True, False)
    ]
    return model, torch.optim.AdamW(groups, lr=1e-2)


def train_and_save(place: Path, *, full: bool = False, adapter: bool = True, poisoned: str = "", **config: Any) -> None:
    """Three steps, then what FSDP saves of model and optimizer into ``place``; an adapter that lies there is replaced.

    ``adapter=False`` leaves the model's part empty; the last moment of the parameter ``poisoned`` is not a number.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    model, optimizer = sharded_model(**config)
    for row in training.examples()[:3]:
        optimizer.zero_grad()
        model(input_ids=row["input_ids"][None], labels=row["labels"][None]).loss.backward()
        optimizer.step()
    for name, one in model.named_parameters():
        if name == poisoned:
            optimizer.state[one]["exp_avg_sq"].to_local()[-1, -1] = float("nan")
    options = StateDictOptions(full_state_dict=full)
    weights = get_peft_model_state_dict(model) if adapter else {}
    moments = get_optimizer_state_dict(model, optimizer, options=options)
    place.mkdir(exist_ok=True)
    if (beside := place / "adapter_model.safetensors").exists():
        save_file({name: one.full_tensor().detach().contiguous() for name, one in weights.items()}, beside)
    if full:
        torch.save({name: one.full_tensor() for name, one in weights.items()}, place / "pytorch_model_fsdp.bin")
        torch.save(moments, place / "optimizer.bin")
        return
    for name, state in (("pytorch_model_fsdp_0", {"model": weights}), ("optimizer_0", {"optimizer": moments})):
        _save(place / name, state)


def _save(folder: Path, state: dict[str, Any]) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder), planner=dcp.DefaultSavePlanner())


def load(place: Path, **config: Any) -> Any:
    """The optimizer after the shards in ``place`` were loaded into a new model with this adapter, as accelerate does it."""
    import torch.distributed.checkpoint as dcp
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    model, optimizer = sharded_model(**config)
    weights = {"model": get_peft_model_state_dict(model)}
    dcp.load(weights, storage_reader=dcp.FileSystemReader(place / "pytorch_model_fsdp_0"))
    set_peft_model_state_dict(model, weights["model"])
    moments = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    dcp.load(moments, storage_reader=dcp.FileSystemReader(place / "optimizer_0"))
    set_optimizer_state_dict(model, optimizer, optim_state_dict=moments["optimizer"])
    return optimizer
