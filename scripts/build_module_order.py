"""Writes `adapter_doctor/knowledge/module_order.json`: the order in which transformers' models register their modules.

A checkpoint lists tensors by name, a model in the order of its code; torch numbers an optimizer's parameters by the
latter. Every text class of a model type is built from its default config on torch's meta device, once.

    python scripts/build_module_order.py
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import CONFIG_MAPPING  # noqa: E402

from adapter_doctor.knowledge.module_order import pattern, ranks, sorted_by  # noqa: E402
from adapter_doctor.loading import child  # noqa: E402

TABLE = ROOT / "adapter_doctor" / "knowledge" / "module_order.json"
TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")


def order_of(model: torch.nn.Module) -> list[str] | None:
    """The paths of the modules with parameters of their own, numbers written as ``#``, each once.

    Where layers of one list differ, as T5's do, only the first number is; None where that does not tell the order either.
    """
    names = [name for name, module in model.named_modules() if module._parameters and name]
    for most in (0, 1):
        order = list(dict.fromkeys(pattern(name, most) for name in names))
        if sorted_by(ranks(order), names) == names:
            return order
    return None


def main() -> int:
    """Build every class, and write what could be built."""
    warnings.simplefilter("ignore")
    types = json.loads((ROOT / "adapter_doctor" / "knowledge" / "architectures.json").read_text("utf-8"))["types"]
    orders: list[list[str]] = []
    classes: dict[str, int] = {}
    for model_type, row in sorted(types.items()):
        for name in dict.fromkeys(row["classes"].get(task) for task in TASKS):
            if not name or name in classes or model_type not in CONFIG_MAPPING:
                continue
            try:
                order = order_of(child.skeleton(child.transformers_class(name), CONFIG_MAPPING[model_type]()))
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {str(error)[:80]}", file=sys.stderr)
                continue
            if order is None:
                print(f"{name}: its layers differ too much", file=sys.stderr)
                continue
            if order not in orders:
                orders.append(order)
            classes[name] = orders.index(order)
    rows = [",\n ".join(json.dumps(one, separators=(",", ":")) for one in orders)]
    TABLE.write_text(
        f'{{"transformers":"{transformers.__version__}",\n"classes":{json.dumps(classes, sort_keys=True, indent=0)},\n'
        f'"orders":[\n {rows[0]}\n]}}\n',
        encoding="utf-8",
    )
    print(f"{len(classes)} classes, {len(orders)} orders, {TABLE.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
