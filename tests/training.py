"""Real checkpoints: tiny models trained for a few steps by transformers' Trainer, and what it does when it resumes."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny

STEPS, SAVED = 6, 3


def lora(**fields: Any) -> Any:
    """A LoRA config for the tiny Llama; with dropout, so that the random state matters."""
    import peft

    return peft.LoraConfig(
        **{
            "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM",
            "lora_dropout": 0.1, **fields,
        }
    )  # fmt: skip


def examples(architecture: str = "llama") -> list[dict[str, Any]]:
    """A small data set of random tokens, the same each time."""
    import torch

    rows = [torch.randint(3, tiny.VOCABULARY, (12,), generator=torch.Generator().manual_seed(at)) for at in range(24)]
    return [{"input_ids": row, "labels": row.clone()} for row in rows]


def train(
    folder: Path,
    config: Any,
    *,
    architecture: str = "llama",
    resume: Path | None = None,
    prepare: Callable[[Any], Any] | None = None,
    optimizers: Callable[[Any], Any] | None = None,
    model: Any = None,
    adapter_name: str = "default",
    **arguments: Any,
) -> tuple[Any, list[float]]:
    """The trainer after a run of ``STEPS`` steps, saved halfway and at the end, and the loss of each step.

    ``prepare`` changes the PeftModel, or ``model``, before the training; ``optimizers`` makes (optimizer, scheduler) for it.
    """
    import torch
    from peft import get_peft_model
    from transformers import Trainer, TrainingArguments

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # those of the libraries about their own futures
        if model is None:
            model = get_peft_model(tiny.by_name(architecture).build(), config, adapter_name)
        if prepare is not None:
            prepare(model)
        torch.manual_seed(3)
        settings = TrainingArguments(
            **{
                "output_dir": str(folder), "max_steps": STEPS, "save_steps": SAVED, "logging_steps": 1,
                "per_device_train_batch_size": 4, "report_to": [], "disable_tqdm": True, "use_cpu": True,
                "learning_rate": 1e-2, **arguments,
            }
        )  # fmt: skip
        chosen = {"optimizers": optimizers(model)} if optimizers else {}
        trainer = Trainer(model=model, args=settings, train_dataset=examples(), **chosen)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return trainer, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def halfway(folder: Path) -> Path:
    """The checkpoint in the middle of a run."""
    return folder / f"checkpoint-{SAVED}"
