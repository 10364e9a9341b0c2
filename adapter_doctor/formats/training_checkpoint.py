"""The keys of dicts that training scripts save around a model's state dict, and of an optimizer's state dict."""

from __future__ import annotations

MODEL_ENTRIES = ("model_state_dict", "state_dict", "model", "module", "net", "network", "weights", "params", "ema")
"""Under which key the model's own state dict is found, the usual ones first."""
BESIDE_THE_MODEL = frozenset(
    {
        "optimizer", "optimizers", "optimizer_state_dict", "optimizer_states", "optim", "lr_scheduler", "lr_schedulers",
        "scheduler", "scheduler_state_dict", "scaler", "epoch", "step", "global_step", "iteration", "iter", "loss",
        "args", "config", "best_metric", "best_acc", "best_loss", "hyper_parameters", "callbacks", "loops",
        "pytorch-lightning_version", "rng_state", "amp", "arch", "best_acc1", "train_loss", "val_loss", "metrics",
        "hparams", "version", "seed", "ds_config", "ds_version", "lr", "date", "train_args", "global_steps",
    }
)  # fmt: skip
OPTIMIZER_ENTRIES = frozenset({"state", "param_groups"})
"""What `torch.optim.Optimizer.state_dict` returns."""
