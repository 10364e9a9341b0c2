"""Which checkpoint is taken, whose it is, and what is read of it without torch."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import subprocess
import sys
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import patient
import pytest
import training

import adapter_doctor
from adapter_doctor.facts import Facts, Missing, OptimizerState, ResumePlan, SchedulerState, TensorInfo
from adapter_doctor.formats.optimizer_kinds import kind_of_moments
from adapter_doctor.formats.optimizer_state import NoOptimizerState, read_state
from adapter_doctor.gather.checkpoint import complete, gather_training, numbered, writer_of
from adapter_doctor.report import Report
from adapter_doctor.rules.resume.state_incomplete import state_incomplete
from adapter_doctor.sources import Unreachable
from adapter_doctor.sources.disk import DiskSource


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with two checkpoints of the Trainer, and their base beside it."""
    folder = tmp_path_factory.mktemp("run")
    trainer, _ = training.train(folder / "out", training.lora())
    trainer.model.unload().save_pretrained(folder / "base")
    return folder


@pytest.fixture
def out(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run / "out", tmp_path / "out"))


def resume(run: Path, checkpoint: Path, **options: Any) -> Report:
    """A static examination, which knows the base by its checkpoint alone."""
    return adapter_doctor.resume(run / "base", checkpoint, load="no", cache=False, **options)


def codes(report: Report) -> set[str]:
    return {one.rule.code for one in report.findings if one.rule.code.startswith("AD8")}


# ------------------------------------------------------------------------------------------------ which is taken


def test_the_newest_checkpoint_is_taken_and_older_ones_are_named(run: Path, out: Path) -> None:
    report = resume(run, out)

    assert report.adapter["reference"] == str(out / "checkpoint-6")
    assert any("checkpoint-6 was taken" in note and "usable as well: checkpoint-3" in note for note in report.notes)


def test_the_order_is_by_number_not_by_name() -> None:
    files = {"checkpoint-9/a": 1, "checkpoint-10/a": 1, "checkpoint-best/a": 1, "runs/b": 1}

    assert numbered(files) == ["checkpoint-10", "checkpoint-9"]


@pytest.mark.parametrize("name", ["trainer_state.json", "optimizer.pt", "scheduler.pt", "adapter_model.safetensors"])
@pytest.mark.parametrize("length", [None, 0, 150])
def test_a_newer_checkpoint_that_is_broken_is_passed_over_and_told(
    run: Path, out: Path, name: str, length: int | None
) -> None:
    path = out / "checkpoint-6" / name
    path.unlink() if length is None else path.write_bytes(path.read_bytes()[:length])

    report = resume(run, out)

    assert report.verdict == "compatible"
    assert report.adapter["reference"] == str(out / "checkpoint-3")
    assert codes(report) == {"AD824"}
    (told,) = (one for one in report.findings if one.rule.code == "AD824")
    assert told.hits[0].fix == f"trainer.train(resume_from_checkpoint={str(out / 'checkpoint-3')!r})"


def test_where_none_is_usable_the_newest_is_examined(run: Path, out: Path) -> None:
    for number in (3, 6):
        (out / f"checkpoint-{number}" / "optimizer.pt").write_bytes(b"")

    report = resume(run, out)

    assert report.adapter["reference"] == str(out / "checkpoint-6")
    assert codes(report) == {"AD802", "AD808"}


def test_an_earlier_checkpoint_with_another_config_is_told(run: Path, out: Path) -> None:
    path = out / "checkpoint-3" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 64}))

    report = resume(run, out)

    assert codes(report) == {"AD808", "AD813"}


def test_a_sound_checkpoint_is_complete(out: Path) -> None:
    assert complete(DiskSource(out / "checkpoint-3", "here")) == ""


# ---------------------------------------------------------------------------------------------------- whose it is


@pytest.mark.parametrize(("files", "writer"), [
    (["trainer_state.json", "optimizer.pt", "rng_state.pth"], "trainer"),
    (["global_step300/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "latest", "trainer_state.json"], "deepspeed"),
    (["global_step300/mp_rank_00_model_states.pt", "latest"], "deepspeed"),
    (["latest", "zero_to_fp32.py", "trainer_state.json"], "deepspeed"),
    (["optimizer_0/__0_0.distcp", "pytorch_model_fsdp_0/__0_0.distcp", "trainer_state.json"], "fsdp"),
    (["optimizer.bin", "pytorch_model_fsdp.bin", "trainer_state.json"], "fsdp"),
    (["optimizer.bin", "model.safetensors", "random_states_0.pkl"], "accelerate"),
    (["adapter_model.safetensors"], "trainer"),
])  # fmt: skip
def test_the_files_tell_who_wrote_a_checkpoint(files: list[str], writer: str) -> None:
    assert writer_of(dict.fromkeys(files, 1)) == writer


def test_a_state_of_fsdp_without_names_is_not_judged_by_position(run: Path, out: Path) -> None:
    place = out / "checkpoint-3"
    shutil.copyfile(place / "optimizer.pt", place / "pytorch_model_fsdp.bin")
    (place / "optimizer.pt").rename(place / "optimizer.bin")

    report = resume(run, place)

    assert report.verdict == "undetermined"
    assert codes(report) == {"AD810"}


def test_a_state_of_accelerate_is_judged_and_named(run: Path, out: Path) -> None:
    import accelerate
    import torch

    place = out / "checkpoint-3"
    parameters = [torch.nn.Parameter(one) for one in _moments(place)]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    for one in parameters:
        one.grad = torch.ones_like(one)
    optimizer.step()
    for path in place.iterdir():
        if not path.name.startswith("adapter_"):
            path.unlink()
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.prepare(optimizer)
    accelerator.save_state(str(place))

    report = resume(run, place)

    assert report.verdict == "compatible", str(report)
    assert codes(report) == set()
    assert f"accelerator.load_state({str(place)!r})" in " ".join(report.notes)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers about its own future, when PEFT asks
def test_a_state_of_accelerate_without_an_adapters_files_is_left_open(run: Path, tmp_path: Path) -> None:
    """`save_state` saves a PeftModel whole, and its config nowhere; the model in memory tells what is to be trained."""
    import accelerate
    import peft
    import tiny
    import torch

    def made(rank: int) -> Any:
        return peft.get_peft_model(tiny.by_name("llama").build(), training.lora(r=rank))

    model = made(4)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    for one in model.parameters():
        one.grad = torch.ones_like(one) if one.requires_grad else None
    optimizer.step()
    place = tmp_path / "state"
    accelerator.save_state(str(place))

    report = resume(run, place)
    same, other = adapter_doctor.resume(made(4), place), adapter_doctor.resume(made(8), place)

    assert (report.verdict, codes(report)) == ("undetermined", set()), str(report)
    assert f"adapter_doctor.resume(model, {str(place)!r})" in " ".join(report.notes)
    assert f"accelerator.load_state({str(place)!r})" in " ".join(report.notes)
    assert codes(same) == set()
    assert codes(other) == {"AD804"}
    assert "AD803" not in {one.rule.code for one in same.diagnosis.unknown}


def test_a_file_of_torchs_is_judged_beside_its_adapter(run: Path, out: Path) -> None:
    import torch

    place = out / "checkpoint-3"
    state = torch.load(place / "optimizer.pt", weights_only=True)
    torch.save({"model": {}, "optimizer": state, "epoch": 3}, place / "training.pt")

    report = resume(run, place / "training.pt")
    state["state"][0]["exp_avg"] = torch.zeros(9, 9)
    torch.save({"optimizer": state}, place / "training.pt")
    hurt = resume(run, place / "training.pt")

    assert report.verdict == "compatible", str(report)
    assert "torch.load(" in " ".join(report.notes)
    assert "['optimizer']" in " ".join(report.notes)
    assert codes(hurt) == {"AD804"}


def test_moments_of_torchao_are_read_as_what_they_stand_for(
    run: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchao allows its classes to `weights_only=True` as it is imported; here one of the same name stands for it."""
    import torch

    class OptimState8bit(torch.Tensor):  # type: ignore[misc]
        @staticmethod
        def __new__(cls, codes: Any) -> Any:
            return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

        def __init__(self, codes: Any) -> None:
            self.codes = codes

        @classmethod
        def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            return cls(function(*(one.codes if isinstance(one, cls) else one for one in arguments)))

    module = types.ModuleType("torchao.optim.subclass_8bit")
    module.OptimState8bit = OptimState8bit  # type: ignore[attr-defined]
    OptimState8bit.__module__, OptimState8bit.__qualname__ = module.__name__, "OptimState8bit"
    for name in ("torchao", "torchao.optim", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    path = out / "checkpoint-3" / "optimizer.pt"
    state = torch.load(path, weights_only=True)
    for kept in state["state"].values():
        kept.update({name: OptimState8bit(kept[name].to(torch.uint8)) for name in ("exp_avg", "exp_avg_sq")})
    torch.save(state, path)
    sound = resume(run, out / "checkpoint-3")
    state["state"][0], state["state"][1] = state["state"][1], state["state"][0]
    torch.save(state, path)
    hurt = resume(run, out / "checkpoint-3")

    assert (sound.verdict, codes(sound)) == ("compatible", set()), str(sound)
    assert codes(hurt) == {"AD805"}


def test_a_state_with_galores_projectors_says_how_torch_takes_them(
    run: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Trainer itself cannot read what it saved with GaLore or APOLLO; here a class of the same name stands for theirs."""
    import torch

    class GaLoreProjector:
        rank = 4

    module = types.ModuleType("galore_torch.galore_projector")
    module.GaLoreProjector = GaLoreProjector  # type: ignore[attr-defined]
    GaLoreProjector.__module__, GaLoreProjector.__qualname__ = module.__name__, "GaLoreProjector"
    monkeypatch.setitem(sys.modules, "galore_torch", types.ModuleType("galore_torch"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = out / "checkpoint-3" / "optimizer.pt"
    state = torch.load(path, weights_only=True)
    state["state"][0]["projector"] = GaLoreProjector()
    torch.save(state, path)

    report = resume(run, out / "checkpoint-3")

    assert codes(report) == {"AD802"}
    assert report.cause is not None
    assert (fix := report.cause.hits[0].fix) is not None
    assert "torch.serialization.add_safe_globals([GaLoreProjector])" in fix
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    with torch.serialization.safe_globals([GaLoreProjector]):
        assert torch.load(path, weights_only=True)["state"][0]["projector"].rank == 4


def _moments(place: Path) -> list[Any]:
    """Tensors of the shapes of the adapter's parameters, in the model's order."""
    import torch

    state = torch.load(place / "optimizer.pt", weights_only=True)
    return [torch.ones_like(kept["exp_avg"]) for kept in state["state"].values()]


# -------------------------------------------------------------------------------------------------- what is read


def test_static_resume_imports_no_heavy_library(run: Path) -> None:
    script = (
        "import sys, adapter_doctor\n"
        f"report = adapter_doctor.resume({str(run / 'base')!r}, {str(run / 'out')!r}, load='no', cache=False)\n"
        "print(report.verdict, sorted({'torch', 'transformers', 'peft', 'huggingface_hub'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["compatible", "[]"]


def test_what_the_arguments_say_is_read_without_unpickling(run: Path) -> None:
    source = DiskSource(run / "out" / "checkpoint-3", "here")

    facts = gather_training(source, Facts(), None, ResumePlan())
    plan, state, schedule = facts.get(ResumePlan), facts.get(OptimizerState), facts.get(SchedulerState)

    assert isinstance(plan, ResumePlan)
    assert isinstance(state, OptimizerState)
    assert isinstance(schedule, SchedulerState)
    assert (plan.optimizer, plan.arguments["learning_rate"], plan.arguments["lr_scheduler_type"]) == (
        "adamw_torch_fused", 0.01, "linear",
    )  # fmt: skip
    assert (state.sizes, state.steps, schedule.step) == ((12, 0), (3.0,), 3)


def test_a_checkpoint_that_is_not_on_this_disk_is_read_by_ranges(run: Path) -> None:
    class Far(DiskSource):
        asked = 0

        def path(self, name: str) -> Path | None:
            return None if name else self.folder

        def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
            assert name.endswith(".json") or length is not None
            Far.asked += 1
            return super().read(name, start, length)

    facts = gather_training(Far(run / "out" / "checkpoint-3", "far"), Facts(), None, ResumePlan())
    state = facts.get(OptimizerState)

    assert isinstance(state, OptimizerState)
    assert state.sizes == (12, 0)
    assert Far.asked < 30


@pytest.mark.parametrize("value", [None, [], {}, {"weight": 1}, {"state_dict": {"a": 1}}, "text", 7])
def test_what_is_no_state_is_refused(value: Any) -> None:
    with pytest.raises(NoOptimizerState):
        read_state(value, "optimizer.pt", lambda _: None)


@pytest.mark.parametrize("value", [
    {"state": 5, "param_groups": "x"},
    {"state": {0: None, "a": [1], 2: {"step": "x"}}, "param_groups": [None, {"params": {}}, {"params": [{}, 1.5, "a"]}]},
    {"state": {0: {"a": {"b": {"c": {"d": {"e": {}}}}}}}, "param_groups": [{"params": [0], "param_names": 3}]},
    {"optimizer": [{"state": {}, "param_groups": []}]},
])  # fmt: skip
def test_a_state_of_strange_shape_is_read_as_far_as_it_goes(value: Mapping[str, Any]) -> None:
    state = read_state(value, "optimizer.pt", lambda _: None)

    assert isinstance(state, OptimizerState)
    assert len(state.order) == sum(state.sizes)


def test_no_damage_to_a_checkpoint_raises(run: Path, tmp_path: Path) -> None:
    """Bytes of its files are changed, cut out and doubled at random; whatever is found, it is a report."""
    chance = random.Random(0)
    place = tmp_path / "checkpoint-3"
    shutil.copytree(run / "out" / "checkpoint-3", place)
    whole = {path: path.read_bytes() for path in place.iterdir() if path.name != "README.md"}
    for _ in range(60):
        path = chance.choice(sorted(whole))
        data = bytearray(whole[path])
        at = chance.randrange(len(data))
        end = min(len(data), at + chance.randrange(1, 40))
        data[at:end] = chance.choice([b"", bytes(data[at:end]) * 2, chance.randbytes(end - at), b"\xff" * (end - at)])
        path.write_bytes(bytes(data))

        report = resume(run, place)

        assert not report.diagnosis.crashed, report.diagnosis.crashed
        path.write_bytes(whole[path])


def test_a_state_that_would_run_code_is_told_and_not_run(run: Path, out: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return exec, (f"open({str(out / 'ran')!r}, 'w')",)

    path = out / "checkpoint-3" / "optimizer.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("optimizer/data.pkl", pickle.dumps({"state": {}, "param_groups": [Evil()]}, protocol=2))

    report = resume(run, out / "checkpoint-3")

    assert report.cause is not None
    assert report.cause.rule.code == "AD802"
    assert not (out / "ran").exists()


def test_a_folder_that_is_not_there_is_told(run: Path, tmp_path: Path) -> None:
    report = resume(run, tmp_path / "nowhere")

    assert report.verdict == "incompatible"
    assert report.cause is not None
    assert report.cause.rule.code == "AD002"


def test_an_adapter_alone_is_no_checkpoint(tmp_path: Path) -> None:
    base, adapter = patient.write(tmp_path)

    report = adapter_doctor.resume(base, adapter, load="no", cache=False)

    assert report.cause is not None
    assert report.cause.rule.code == "AD817"
    assert {one.consequence_of for one in report.findings if one.rule.code == "AD801"} == {"AD817"}


def test_missing_facts_say_why(tmp_path: Path) -> None:
    facts = gather_training(DiskSource(tmp_path / "nowhere", "nowhere"), Facts(), None, ResumePlan())
    state = facts.get(OptimizerState)

    assert isinstance(state, Missing)
    assert "could not be read" in state.why


# --------------------------------------------------------------------------------------------- the command line


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = [sys.executable, "-m", "adapter_doctor", "resume", *arguments]
    return subprocess.run(done, capture_output=True, text=True, check=False)


def test_the_command_reports_as_json_and_exits_by_the_verdict(run: Path, out: Path) -> None:
    sound = command(str(run / "base"), str(out), "--load", "no", "--no-cache", "--format", "json")
    (out / "checkpoint-3" / "scheduler.pt").unlink()
    hurt = command(str(run / "base"), str(out / "checkpoint-3"), "--load", "no", "--no-cache")

    assert (sound.returncode, json.loads(sound.stdout)["verdict"]) == (0, "compatible")
    assert hurt.returncode == 1
    assert "AD812 scheduler-missing" in hurt.stdout


@pytest.mark.parametrize(
    "wrong", [["--world-size", "0"], ["--load", "maybe"], ["--select", "AD999"], ["--time-limit", "0"]]
)
def test_wrong_usage_exits_with_2(run: Path, wrong: list[str]) -> None:
    done = command(str(run / "base"), str(run / "out"), *wrong)

    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_check_knows_nothing_of_what_only_a_resume_looks_at(run: Path) -> None:
    report = adapter_doctor.check(run / "base", run / "out" / "checkpoint-3", load="no", cache=False)

    examined = [one.rule.code for one in report.findings] + [one.rule.code for one in report.diagnosis.unknown]
    assert [code for code in examined if code.startswith("AD8")] == []


# ---------------------------------------------------------------------------------------------- optimizers not known


@pytest.mark.parametrize("options", [
    {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.0, "decouple_lr": False},  # optimi's AdamW
    {"lr": 1e-3, "bias_correction": True, "betas": (0.9, 0.99), "eps": 1e-8, "step": 2},  # apex's FusedAdam
])  # fmt: skip
def test_moments_without_a_step_are_not_said_to_lack_it(options: dict[str, Any]) -> None:
    kept = {name: TensorInfo("F32", (4, 4)) for name in ("exp_avg", "exp_avg_sq")}
    saved = {"state": {0: kept}, "param_groups": [{**options, "params": [0]}]}
    state = read_state(saved, "optimizer.pt", lambda _: None)

    assert (kind_of_moments(state), list(state_incomplete.check(state))) == (None, [])


@pytest.mark.parametrize("saved", [
    {"state": {0: {"step": 10**400}}, "param_groups": [{"params": [0]}]},
    {"state": {0: {2**20000: 1}, 2**20000: {}}, "param_groups": [{2**20000: 1, "params": [0]}], 2**20000: 1},
])  # fmt: skip
def test_numbers_beyond_all_measure_are_no_steps_and_no_keys(saved: dict[Any, Any]) -> None:
    state = read_state(saved, "optimizer.pt", lambda _: None)

    assert state.steps == ()
    assert all(len(one) < 60 for one in (*state.extra, *state.groups[0].options))


def test_bytes_that_cannot_be_there_are_unreachable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")

    for start, length in ((-(2**70), 5), (2**70, 5), (-1, 5)):
        with pytest.raises(Unreachable):
            DiskSource(tmp_path, "here").read("file", start, length)


def test_files_of_very_many_processes_are_all_listed(tmp_path: Path) -> None:
    (tmp_path / "global_step5").mkdir()
    for number in range(1100):
        (tmp_path / "global_step5" / f"{number}").touch()

    assert len(DiskSource(tmp_path, "here").files()) == 1100
