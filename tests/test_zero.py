"""Checkpoints under DeepSpeed's ZeRO: their state is put together and judged, and files that lack are told."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import training
from transformers.trainer_utils import IntervalStrategy
from zero_checkpoint import FOLDER, write_zero

import adapter_doctor
from adapter_doctor.facts import TensorInfo
from adapter_doctor.formats.zero_state import put_together
from adapter_doctor.gather.checkpoint import _opened
from adapter_doctor.gather.zero import gather_zero
from adapter_doctor.loading.process import LoadingChild
from adapter_doctor.report import Report
from adapter_doctor.sources.disk import DiskSource

torch = pytest.importorskip("torch")

SECOND = f"{FOLDER}/zero_pp_rank_1_mp_rank_00_optim_states.pt"
MODEL = f"{FOLDER}/mp_rank_00_model_states.pt"


class Run:
    """A checkpoint of the Trainer, the names of what trained, and the base."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.trainer, _ = training.train(folder / "out", training.lora(**config), weight_decay=0.1)
        self.place = training.halfway(folder / "out")
        decayed = set(self.trainer.get_decay_parameter_names(self.trainer.model))
        names = [name for name, one in self.trainer.model.named_parameters() if one.requires_grad]
        self.names = [n for n in names if n in decayed] + [n for n in names if n not in decayed]
        self.base = folder / "base"
        tiny.by_name("llama").build().save_pretrained(self.base)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def norms(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """With two groups of parameters, of sizes that no number of processes divides."""
    return Run(tmp_path_factory.mktemp("norms"), r=3, modules_to_save=["input_layernorm", "norm"])


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    with LoadingChild() as one:
        yield one


def copied(run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.place, tmp_path / "checkpoint-3"))


def codes(report: Report) -> set[str]:
    return {one.rule.code for one in report.findings if one.rule.code.startswith("AD8") and one.consequence_of is None}


@pytest.mark.parametrize(("name", "stage", "world"), [
    ("run", 1, 1), ("run", 1, 2), ("run", 2, 2), ("run", 3, 2), ("norms", 1, 5), ("norms", 2, 2), ("norms", 2, 5),
    ("norms", 3, 1), ("norms", 3, 2), ("norms", 3, 5),
])  # fmt: skip
def test_a_healthy_checkpoint_is_called_resumable(
    name: str, stage: int, world: int, child: LoadingChild, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(name)
    place = copied(run, tmp_path)
    write_zero(place, run.names, stage, world, bf16=stage == 1)

    static = adapter_doctor.resume(run.base, place, load="no", cache=False, world_size=world)
    loaded = adapter_doctor.resume(run.base, place, child=child)

    for report in (static, loaded):
        assert (report.verdict, codes(report)) == ("compatible", {"AD810"}), str(report)
    files = f"{world} files of DeepSpeed of {world} processes" if world > 1 else "1 file of DeepSpeed"
    (told,) = (one for one in loaded.findings if one.rule.code == "AD810")
    assert told.hits[0].message.startswith(f"the optimizer's state lies in {files};")
    assert "under DeepSpeed as before" in " ".join(loaded.notes)
    assert not {one.rule.code for one in loaded.diagnosis.unknown if one.rule.code.startswith("AD8")}


def test_moments_of_bitsandbytes_are_put_together_too(norms: Run, tmp_path: Path) -> None:
    place = copied(norms, tmp_path)
    write_zero(place, norms.names, wrapped=True)

    report = adapter_doctor.resume(norms.base, place, load="no", cache=False)

    assert report.verdict == "compatible", str(report)
    (told,) = (one for one in report.findings if one.rule.code == "AD830")
    assert told.hits[0].message.startswith("the state is that of 32-bit AdamW of bitsandbytes")


def test_a_state_that_accelerate_saved_under_deepspeed_needs_no_file_of_the_trainer(run: Run, tmp_path: Path) -> None:
    place = copied(run, tmp_path)
    write_zero(place, run.names)
    (place / FOLDER).rename(place / "pytorch_model")
    (place / "latest").write_text("pytorch_model")
    (place / "scheduler.pt").rename(place / "scheduler.bin")
    (place / "rng_state_0.pth").rename(place / "random_states_0.pkl")
    for name in ("trainer_state.json", "training_args.bin", "rng_state_1.pth"):
        (place / name).unlink()

    report = adapter_doctor.resume(run.base, place, load="no", cache=False)

    assert (report.verdict, codes(report)) == ("compatible", {"AD810"}), str(report)
    assert "accelerator.load_state(" in " ".join(report.notes)


def test_a_checkpoint_without_zero_is_judged_as_well(run: Run, tmp_path: Path, child: LoadingChild) -> None:
    place = copied(run, tmp_path)
    write_zero(place, run.names, stage=0)
    sound = adapter_doctor.resume(run.base, place, child=child)
    model = torch.load(place / MODEL, weights_only=True)
    model["optimizer"]["state"][4]["exp_avg_sq"].fill_(float("nan"))
    torch.save(model, place / MODEL)
    hurt = adapter_doctor.resume(run.base, place, child=child)

    assert (sound.verdict, codes(sound)) == ("compatible", {"AD810"}), str(sound)
    assert codes(hurt) == {"AD810", "AD819"}


def without(name: str) -> Callable[[Path], Any]:
    return lambda place: (place / name).unlink()


def cut(name: str) -> Callable[[Path], Any]:
    return lambda place: (place / name).write_bytes((place / name).read_bytes()[:900])


def emptied(place: Path) -> None:
    for path in (place / FOLDER).iterdir():
        path.unlink()


# What DeepSpeed 0.19.8 does with each: it raises, on the one process that misses its file.
@pytest.mark.parametrize(("change", "told"), [
    (without(SECOND), f"there is no {SECOND}, of what 2 processes saved"),
    (without(MODEL), f"there is no {MODEL}"),
    (without("latest"), "there is no latest"),
    (lambda place: (place / "latest").write_text("global_step7"), "there is no global_step7/"),
    (lambda place: (place / "latest").write_text("\n"), "there is no latest"),
    (emptied, f"there is no {FOLDER}/"),
    (lambda place: shutil.rmtree(place / FOLDER), f"there is no {FOLDER}/"),
    (without("scheduler.pt"), "there is no scheduler.pt"),
    (cut(SECOND), "the zip cannot be read"),
    (cut(MODEL), "the zip cannot be read"),
])  # fmt: skip
def test_files_that_lack_are_told(change: Callable[[Path], Any], told: str, run: Run, tmp_path: Path) -> None:
    place = copied(run, tmp_path)
    write_zero(place, run.names)
    change(place)

    report = adapter_doctor.resume(run.base, place, load="no", cache=False)

    assert (report.verdict, codes(report)) == ("incompatible", {"AD810", "AD832"}), str(report)
    assert report.cause is not None
    assert report.cause.hits[0].message.startswith(told)


def test_a_newer_checkpoint_without_its_shards_is_passed_over(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (3, 6):
        shutil.copytree(run.place, out / f"checkpoint-{number}")
        write_zero(out / f"checkpoint-{number}", run.names)
    (out / "checkpoint-6" / SECOND).unlink()

    report = adapter_doctor.resume(run.base, out, load="no", cache=False)

    assert (report.verdict, codes(report)) == ("compatible", {"AD810", "AD824"})
    assert report.adapter["reference"] == str(out / "checkpoint-3")


@pytest.mark.parametrize("world", [1, 3])
def test_another_number_of_processes_is_refused(world: int, run: Run, tmp_path: Path) -> None:
    """`ZeRORuntimeException: The checkpoint being loaded used a DP world size of 2 but the current world size is 1.`"""
    place = copied(run, tmp_path)
    write_zero(place, run.names)

    report = adapter_doctor.resume(run.base, place, load="no", cache=False, world_size=world)

    assert codes(report) == {"AD810", "AD833"}


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("number", [0, 5, 11])
def test_a_moment_that_is_not_finite_is_found_in_its_shard(
    number: int, stage: int, run: Run, tmp_path: Path, child: LoadingChild
) -> None:
    """DeepSpeed goes on with it without a word."""
    place = copied(run, tmp_path)
    state = torch.load(place / "optimizer.pt", weights_only=True)
    state["state"][number]["exp_avg"][-1, -1] = float("inf")
    torch.save(state, place / "optimizer.pt")
    write_zero(place, run.names, stage)

    report = adapter_doctor.resume(run.base, place, child=child)

    (told,) = (one for one in report.findings if one.rule.code == "AD819")
    assert told.hits[0].message == "the moments of 1 of 12 parameters are not finite"
    assert told.hits[0].examples == (run.names[number],)


def test_parameters_of_another_adapter_are_told_by_shape_and_name(run: Run, norms: Run, tmp_path: Path) -> None:
    place = copied(run, tmp_path)
    shutil.copyfile(norms.place / "optimizer.pt", place / "optimizer.pt")
    write_zero(place, norms.names)
    other = adapter_doctor.resume(run.base, place, load="no", cache=False)
    again = copied(run, tmp_path / "again")
    write_zero(again, [*run.names[2:], *run.names[:2]])
    moved = adapter_doctor.resume(run.base, again, load="no", cache=False)

    assert codes(other) - {"AD810"} == {"AD815"}
    assert codes(moved) - {"AD810"} == {"AD805"}


def test_objects_of_the_users_own_in_a_shard_are_no_fault(run: Run, tmp_path: Path) -> None:
    """DeepSpeed's `client_state` may hold anything, and is unpickled with the rest."""
    place = copied(run, tmp_path)
    write_zero(place, run.names)
    model = torch.load(place / MODEL, weights_only=True)
    torch.save({**model, "args": argparse.Namespace(lr=1.0)}, place / MODEL)

    report = adapter_doctor.resume(run.base, place, load="no", cache=False)

    assert (report.verdict, codes(report)) == ("compatible", {"AD810"}), str(report)


def test_code_in_a_shard_is_told_and_not_run(run: Run, tmp_path: Path) -> None:
    """DeepSpeed reads its files with `weights_only=False`."""
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return exec, (f"open({str(ran)!r}, 'w')",)

    place = copied(run, tmp_path)
    write_zero(place, run.names)
    with zipfile.ZipFile(place / SECOND, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"optimizer_state_dict": Evil()}, protocol=2))

    report = adapter_doctor.resume(run.base, place, load="no", cache=False)

    assert codes(report) == {"AD810", "AD832"}
    assert report.cause is not None
    assert report.cause.hits[0].message.endswith("exec, which its reader would run")
    assert not ran.exists()


@pytest.mark.parametrize("world", [0, "x"])
def test_a_file_of_an_impossible_process_is_no_reason_to_look_for_all_before_it(
    world: Any, run: Run, tmp_path: Path
) -> None:
    place = copied(run, tmp_path)
    write_zero(place, run.names, world=1)
    (place / FOLDER / "zero_pp_rank_100000000_mp_rank_00_optim_states.pt").write_bytes(b"")
    model = torch.load(place / MODEL, weights_only=True)
    torch.save({**model, "dp_world_size": world}, place / MODEL)

    report = adapter_doctor.resume(run.base, place, load="no", cache=False)

    assert codes(report) == {"AD810", "AD832"}


def test_numbers_beyond_all_measure_are_no_steps_keys_or_shapes() -> None:
    kept = {"step": 10**400, 2**20000: TensorInfo("F32", (4,)), "exp_avg": TensorInfo("F32", (4,))}
    inner = {"state": {0: kept}, "param_groups": [{2**20000: 1, "params": [0]}]}
    shapes = {"a": (4,), 2**20000: (0,), "b": (2**20000,)}

    processes = [{"optimizer_state_dict": {"base_optimizer_state": inner}}]
    state, _ = put_together({"param_shapes": [shapes]}, processes, "here", lambda _: None)

    assert state.steps == ()
    assert state.groups[0].names == ("a", "a number of 20,001 bits")


def test_where_very_many_parts_lie_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"exp_avg": TensorInfo("F32", (4,), 100, 116, "file")}
    process = {"optimizer_state_dict": {"base_optimizer_state": {"state": {0: kept}, "param_groups": [{}]}}}
    few = put_together({"param_shapes": [{"a": (4,)}]}, [process], "here", lambda _: None)
    monkeypatch.setattr("adapter_doctor.formats.zero_state.MAX_PARTS", 0)
    many = put_together({"param_shapes": [{"a": (4,)}]}, [process], "here", lambda _: None)

    assert (len(few[1]), len(many[1])) == (1, 0)
    assert few[0] == many[0]


@pytest.mark.parametrize(
    "opcodes", ["c{}\n{}\n(X\x01\0\0\0atR.", "(X\x01\0\0\0ai{}\n{}\n.", "(c{}\n{}\nX\x01\0\0\0ao."]
)
@pytest.mark.parametrize("name", [
    "torch.hub load", "torch.utils.cpp_extension load_inline", "site main", "joblib load", "torch.jit load", "own run",
    "transformers.training_args inner.Popen",
])  # fmt: skip
def test_a_function_that_a_shard_would_call_is_told(name: str, opcodes: str, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    with zipfile.ZipFile(tmp_path / MODEL, "w") as archive:
        archive.writestr("archive/data.pkl", opcodes.format(*name.split(" ")).encode("latin-1"))

    shards, _ = gather_zero(DiskSource(tmp_path, "here"), DiskSource(tmp_path, "here").files(), _opened, None)

    assert shards.broken == ((MODEL, f"it calls {name.replace(' ', '.')}, which its reader would run"),)


def test_plain_values_and_objects_of_ones_own_in_a_shard_are_no_fault(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    numbers = [np.float32(1), np.arange(3), np.random.default_rng(0)]
    plain = [datetime.datetime(2026, 1, 1), Path("a"), decimal.Decimal(1), {1}, collections.Counter("a"), slice(1)]
    torch.save({"client": [*numbers, *plain, Run.__new__(Run), IntervalStrategy.STEPS]}, tmp_path / MODEL)

    shards, _ = gather_zero(DiskSource(tmp_path, "here"), DiskSource(tmp_path, "here").files(), _opened, None)

    assert shards.broken == ()
