"""Measure what the tool promises about speed and memory, in one run, against what it is compared with.

    python scripts/bench.py

Static check of a tiny pair and of a base of Llama-3.1-405B's size (headers over sparse files) against the bare import
of torch, transformers and peft; a skeleton check of the large base; the tensor-value pass beside sha256; and the same
from a Hub on loopback that adds 100 ms to each request: round trips, bytes and seconds.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from hub_server import Hollow, HubServer
from hub_server import environment as environment_of

ROUNDS = 5
PYTHON = sys.executable
HIDDEN, LAYERS, INNER, KEY_VALUE, ROWS, SHARDS = 16384, 126, 53248, 1024, 128256, 191


def measured(commands: list[list[str]], rounds: int = ROUNDS) -> list[tuple[float, float]]:
    """(seconds, peak MB of the largest process) of each command: the median of some rounds, the largest peak.

    The commands take turns, so that a machine that gets slower or faster meanwhile does so for all of them. The package
    is measured as it is when installed, with its modules compiled: one round before those that count compiles them. A
    small process in between starts each command, since a peak counts what the starting process holds.
    """
    script = (
        "import resource, subprocess, sys, time; begun = time.perf_counter(); r = subprocess.run(sys.argv[1:], "
        "stdout=subprocess.DEVNULL, stderr=subprocess.PIPE); print(time.perf_counter() - begun, "
        "resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.stderr.buffer.write(r.stderr); sys.exit(r.returncode)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    seconds: list[list[float]] = [[] for _ in commands]
    peaks: list[list[float]] = [[] for _ in commands]
    for _ in range(rounds + 1):
        for number, command in enumerate(commands):
            done = subprocess.run([PYTHON, "-c", script, *command], capture_output=True, text=True, env=environment)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-300:]}")
            second, peak = done.stdout.split()
            seconds[number].append(float(second))
            peaks[number].append(int(peak) / 1024)
    return [(statistics.median(each[1:]), max(peak)) for each, peak in zip(seconds, peaks, strict=True)]


def sparse_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "BF16", width: int = 2) -> None:
    """A safetensors file with a true header over a hole: it takes no room on disk."""
    entries, offset = {}, 0
    for name, shape in shapes.items():
        size = width
        for length in shape:
            size *= length
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + offset)


def large_base(folder: Path) -> None:
    """Llama-3.1-405B by its config, index and the headers of its 191 shards."""
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": 128, "num_key_value_heads": 8, "vocab_size": ROWS,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (ROWS, HIDDEN)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name, shape in layer_shapes().items():
            shapes[f"{at}.{name}.weight"] = shape
        shapes[f"{at}.input_layernorm.weight"] = shapes[f"{at}.post_attention_layernorm.weight"] = (HIDDEN,)
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (ROWS, HIDDEN)}
    names, weight_map = list(shapes), {}
    for number in range(SHARDS):
        shard = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        part = names[number * len(names) // SHARDS : (number + 1) * len(names) // SHARDS]
        sparse_safetensors(folder / shard, {name: shapes[name] for name in part})
        weight_map |= dict.fromkeys(part, shard)
    size = 2 * sum(math.prod(shape) for shape in shapes.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def layer_shapes() -> dict[str, tuple[int, int]]:
    return {
        "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KEY_VALUE, HIDDEN),
        "self_attn.v_proj": (KEY_VALUE, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER),
    }  # fmt: skip


def large_adapter(folder: Path, base: Path, rank: int = 1) -> int:
    """LoRA on all linear layers of the large base, 1,764 tensors; returns the bytes of the weight file."""
    import numpy as np

    folder.mkdir()
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": rank, "lora_alpha": 2,
        "target_modules": sorted(name.partition(".")[2] for name in layer_shapes()), "peft_version": "0.21.2",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        for name, (out, into) in layer_shapes().items():
            at = f"base_model.model.model.layers.{layer}.{name}"
            shapes |= {f"{at}.lora_A.weight": (rank, into), f"{at}.lora_B.weight": (out, rank)}
    path = folder / "adapter_model.safetensors"
    sparse_safetensors(path, shapes, "F32", 4)
    size = path.stat().st_size
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + length)
        file.write(np.random.default_rng(0).normal(size=(size - 8 - length) // 4).astype("<f4").tobytes())
    return size


def tiny_pair(root: Path) -> tuple[Path, Path]:
    subprocess.run([PYTHON, str(Path(__file__).with_name("build_demo.py")), str(root)], check=True, capture_output=True)
    return root / "base", root / "sound"


def value_pass(root: Path) -> tuple[float, float]:
    """Bytes a second of the tensor-value pass and of sha256, over the same 1 GB file in the page cache."""
    import numpy as np

    from adapter_doctor.facts import AdapterTensors
    from adapter_doctor.formats.safetensors_header import header_length, parse_header
    from adapter_doctor.gather.values import gather_values

    path = root / "values.safetensors"
    shapes = {f"base_model.model.l{number}.lora_B.weight": (4096, 2048) for number in range(32)}
    speeds = []
    for dtype, width in (("BF16", 2), ("F32", 4)):
        sparse_safetensors(path, shapes, dtype, width)
        size = path.stat().st_size
        with path.open("r+b") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            file.seek(8 + length)
            block = np.random.default_rng(0).normal(size=1 << 20).astype("<f4")
            data = (block.view("<u4") >> 16).astype("<u2").tobytes() if width == 2 else block.tobytes()
            for _ in range((size - 8 - length) // len(data)):
                file.write(data)
        raw = path.read_bytes()
        header = parse_header(raw[8 : 8 + header_length(raw[:64], size)], size)
        tensors = AdapterTensors(path.name, header.tensors)
        ours = min(timed(lambda: gather_values(path, tensors)) for _ in range(3))  # noqa: B023 - called at once
        hashed = min(timed(lambda: hash_file(path)) for _ in range(3))
        print(
            f"  {dtype}: values {size / ours / 1e9:.2f} GB/s, sha256 {size / hashed / 1e9:.2f} GB/s, {hashed / ours:.2f} times"
        )
        speeds.append(hashed / ours)
    return min(speeds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def from_the_hub(root: Path, tiny: tuple[Path, Path], large: tuple[Path, Path]) -> None:
    """Round trips, bytes beyond the headers of weight files, and seconds of checks of what lies on the Hub alone."""
    with HubServer(latency=0.1) as hub:
        headers = {}
        for name, folder in {
            "acme/tiny": tiny[0],
            "me/tiny": tiny[1],
            "acme/405b": large[0],
            "me/405b": large[1],
        }.items():
            files = {path.name: served(path) for path in folder.iterdir() if path.is_file()}
            hub.add(name, files)
            weights = [path for path in folder.iterdir() if path.suffix == ".safetensors"]
            headers[name] = sum(struct.unpack("<Q", path.open("rb").read(8))[0] for path in weights)

        def report(what: str, pair: str, home: str, *more: str, wanted: str) -> None:
            hub.forget()
            environment = {**environment_of(hub, root / home), "ADAPTER_DOCTOR_CACHE": str(root / "trees")}
            environment = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
            command = [PYTHON, "-m", "adapter_doctor", "check", f"acme/{pair}", f"me/{pair}", *more]
            begun = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            seconds = time.perf_counter() - begun
            verdict = done.stdout.partition("\n")[0]
            print(
                f"  {what}: {hub.round_trips()} round trips, {hub.sent / 1000:,.0f} kB, {seconds:.2f} s, {verdict.strip()} (wanted {wanted})"
            )

        print(
            "from a Hub with 100 ms a request (headers: tiny adapter and base "
            f"{(headers['me/tiny'] + headers['acme/tiny']) / 1000:,.0f} kB, adapter for 405B {headers['me/405b'] / 1000:,.0f} kB):"
        )
        static = ("--load", "no")
        report("static, cold", "tiny", "home", *static, "--no-cache", wanted="4, 300 kB beyond headers, 1.5 s")
        report("static, again", "tiny", "home", *static, "--no-cache", wanted="2")
        report("static, --offline", "tiny", "home", *static, "--no-cache", "--offline", wanted="0")
        report(
            "skeleton, cold",
            "tiny",
            "other",
            wanted=f"{(tiny[1] / 'adapter_model.safetensors').stat().st_size / 1000:,.0f} kB and less than 1 MB",
        )
        report("static at 405B, cold", "405b", "third", *static, "--no-cache", wanted="8")
        report("skeleton at 405B from the header", "405b", "fourth", "--no-values", wanted="no weights")
        report("static at 405B, tree cached", "405b", "fifth", *static, wanted="4, 300 kB beyond headers, 1.5 s")


def served(path: Path) -> bytes:
    """A file as the Hub serves it: sparse weights by their header alone."""
    if path.suffix != ".safetensors" or path.stat().st_size < 1 << 20:
        return path.read_bytes()
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(0)
        return Hollow(file.read(8 + length), path.stat().st_size)


def timed(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["ADAPTER_DOCTOR_CACHE"] = str(root / "cache")
        base, adapter = tiny_pair(root / "tiny")
        large_base(root / "large")
        size = large_adapter(root / "large-adapter", root / "large")
        static = ["-m", "adapter_doctor", "check", "--load", "no", "--no-cache"]
        pair = [str(root / "large"), str(root / "large-adapter")]
        (imports, memory), (tiny, tiny_peak), (large, large_peak), (skeleton, peak) = measured(
            [
                [PYTHON, "-c", "import torch, transformers, peft"],
                [PYTHON, *static, str(base), str(adapter)],
                [PYTHON, *static, *pair],
                [PYTHON, "-m", "adapter_doctor", "check", "--no-cache", *pair],
            ]
        )
        print(f"import torch, transformers, peft: {imports:.2f} s, {memory:.0f} MB")
        print(
            f"static check of a tiny pair: {tiny:.3f} s, {tiny_peak:.0f} MB; the import takes {imports / tiny:.1f} times as long (wanted 12)"
        )
        print(
            f"static check at 405B: {large:.3f} s, {large_peak:.0f} MB; {large / tiny:.2f} times the tiny pair (wanted at most 2)"
        )
        print(
            f"skeleton check at 405B: {skeleton:.2f} s, {peak:.0f} MB with an adapter of {size / 1e6:.0f} MB;"
            f" {skeleton / imports:.2f} times the import (wanted at most 1.7)"
        )
        from_the_hub(root, (base, adapter), (root / "large", root / "large-adapter"))
        print("tensor values beside sha256 (wanted at least 0.5 times):")
        value_pass(root)


if __name__ == "__main__":
    main()
