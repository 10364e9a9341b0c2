"""Measure a repair of a 4 GB adapter: memory, and the speed of writing against `cp`.

    python scripts/bench_fix.py [FOLDER_WITH_13_GB_FREE]

A LoRA of rank 768 on every linear layer of Llama-3.1-8B (by its config) is broken in three ways: names as torch.compile
leaves them, factors transposed, and a pickle with both. Each is mended in a process of its own.
"""

from __future__ import annotations

import json
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HIDDEN, INNER, KEY_VALUE, LAYERS, RANK = 4096, 14336, 1024, 32, 768
WIDTHS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KEY_VALUE, HIDDEN), "self_attn.v_proj": (KEY_VALUE, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}  # fmt: skip
CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "some/base", "r": RANK, "lora_alpha": RANK,
    "target_modules": sorted(name.partition(".")[2] for name in WIDTHS), "peft_version": "0.21.2",
}  # fmt: skip
BASE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
MEND = """
import json, resource, sys, time
from adapter_doctor import fixing
from adapter_doctor.repair import writing
plain, spent = writing.write, []
def timed(*given):
    begun, busy = time.perf_counter(), time.process_time()
    plain(*given)
    spent.extend((time.perf_counter() - begun, time.process_time() - busy))
writing.write = timed
begun = time.perf_counter()
repair = fixing.fix(*sys.argv[1:], cache=False)
peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps([repair.state, repair.after and repair.after.landed, time.perf_counter() - begun, spent, *peaks]))
"""


def adapter(folder: Path, *, compiled: bool, turned: bool) -> int:
    """Write the broken adapter with values that are no zeros; its size in bytes."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    values = (np.random.default_rng(0).normal(size=1 << 24).astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    header, at = {}, 0
    for layer in range(LAYERS):
        for name, (out, into) in WIDTHS.items():
            for half, shape in (("A", [RANK, into]), ("B", [out, RANK])):
                key = (
                    f"base_model.model.{'_orig_mod.' if compiled else ''}model.layers.{layer}.{name}.lora_{half}.weight"
                )
                size = 2 * shape[0] * shape[1]
                header[key] = {"dtype": "BF16", "shape": shape[::-1] if turned else shape, "data_offsets": [at, at + size]}  # fmt: skip
                at += size
    text = json.dumps(header).encode()
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        left = at
        while left:
            left -= file.write(values[: min(left, len(values))])
    return at


def pickled(folder: Path) -> None:
    """The same tensors as a torch file."""
    script = (
        "import sys, torch; from safetensors.torch import load_file; from pathlib import Path; one = Path(sys.argv[1]);"
        " torch.save(load_file(one / 'adapter_model.safetensors'), one / 'adapter_model.bin');"
        " (one / 'adapter_model.safetensors').unlink()"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)


def copied(source: Path, target: Path) -> tuple[float, float]:
    """Seconds that `cp` takes, and those of them that it computes."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["cp", source, target], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = time.perf_counter() - begun, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    target.unlink()
    return spent


def main() -> None:
    root = Path(tempfile.mkdtemp(dir=sys.argv[1] if len(sys.argv) > 1 else None))
    try:
        (root / "base").mkdir()
        (root / "base" / "config.json").write_text(json.dumps(BASE))
        for label, compiled, turned, pickle in (
            ("renamed", True, False, False), ("transposed", False, True, False), ("both, and a pickle", True, True, True),
        ):  # fmt: skip
            size = adapter(root / "adapter", compiled=compiled, turned=turned)
            if pickle:
                pickled(root / "adapter")
            weights = next((root / "adapter").glob("adapter_model.*"))
            plain = copied(weights, root / "copy")
            done = subprocess.run(
                [sys.executable, "-c", MEND, root / "base", root / "adapter", root / "out"], capture_output=True, text=True
            )  # fmt: skip
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            state, landed, whole, spent, own, loading = json.loads(done.stdout)
            print(
                f"{label}: {size / 1e9:.2f} GB {state}, {landed['landed']} of {landed['in_file']} landed\n"
                f"  written in {spent[0]:.1f} s ({spent[1]:.1f} s computing); cp takes {plain[0]:.1f} s"
                f" ({plain[1]:.1f} s computing): {plain[0] / spent[0]:.2f} of its speed; {whole:.1f} s in all\n"
                f"  peak memory {own:.0f} MB, of the loading process {loading:.0f} MB",
                flush=True,
            )
            shutil.rmtree(root / "adapter")
            shutil.rmtree(root / "out")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
