"""Checkpoints that FSDP really saved, in shards and whole: what is judged by name, and what lacks."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsdp_checkpoint
import peft
import pytest
import tiny
import training

import adapter_doctor
from adapter_doctor.loading.process import LoadingChild
from adapter_doctor.report import Report

torch = pytest.importorskip("torch")
import torch.distributed.checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint.api import CheckpointException  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch.distributed's own

WIDE: dict[str, Any] = {"r": 8}
MORE: dict[str, Any] = {"target_modules": ["q_proj", "k_proj", "v_proj"]}
BAD = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.default.weight"
FEWER: dict[str, Any] = {"target_modules": ["q_proj"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Checkpoints as the Trainer writes them under FSDP, the last two with the adapter beside the shards; and their base."""
    folder = tmp_path_factory.mktemp("run")
    training.train(folder / "out", training.lora(), weight_decay=0.1)
    tiny.by_name("llama").build().save_pretrained(folder / "base")
    with fsdp_checkpoint.process_group(folder):
        for name in ("sharded", "whole", "empty", "beside", "poisoned"):
            place = folder / name
            shutil.copytree(training.halfway(folder / "out"), place)
            (place / "optimizer.pt").unlink()
            if name in ("sharded", "empty"):  # the Trainer leaves the adapter to the shards then
                for file in ("adapter_model.safetensors", "adapter_config.json", "training_args.bin"):
                    (place / file).unlink()
            bad = BAD if name == "poisoned" else ""
            fsdp_checkpoint.train_and_save(place, full=name == "whole", adapter=name != "empty", poisoned=bad)
        yield folder


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    with LoadingChild() as one:
        yield one


def copied(run: Path, name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run / name, tmp_path / "checkpoint-3"))


def codes(report: Report) -> set[str]:
    return {one.rule.code for one in report.findings if one.rule.code.startswith("AD8") and one.consequence_of is None}


def model(**config: Any) -> Any:
    return peft.get_peft_model(tiny.by_name("llama").build(), training.lora(**config))


def test_shards_alone_leave_the_verdict_open_and_tell_how_to_go_on(run: Path) -> None:
    report = adapter_doctor.resume(run / "base", run / "sharded", load="no", cache=False)

    assert (report.verdict, codes(report)) == ("undetermined", {"AD810"}), str(report)
    assert "get_peft_model(base, config)` with the config of the training" in " ".join(report.notes)
    assert "under FSDP as before" in " ".join(report.notes)


@pytest.mark.parametrize(("config", "says", "refused"), [
    ({}, set(), False), (WIDE, {"AD804"}, True), (MORE, {"AD814"}, True), (FEWER, {"AD807"}, False),
])  # fmt: skip
def test_shards_are_held_against_the_model_in_memory_by_name(
    config: dict[str, Any], says: set[str], refused: bool, run: Path
) -> None:
    report = adapter_doctor.resume(model(**config), run / "sharded")

    assert codes(report) == {"AD810", *says}, str(report)
    assert not {one.rule.code for one in report.diagnosis.unknown} & {"AD803", "AD804", "AD805", "AD806", "AD814"}
    if refused:
        with pytest.raises(
            CheckpointException, match=r"Missing key in checkpoint state_dict|Size mismatch between saved"
        ):
            fsdp_checkpoint.load(run / "sharded", **config)
    else:
        assert len(fsdp_checkpoint.load(run / "sharded", **config).state) == (6 if config else 12)


def test_a_whole_state_is_called_resumable(run: Path, child: LoadingChild) -> None:
    static = adapter_doctor.resume(run / "base", run / "whole", load="no", cache=False)
    loaded = adapter_doctor.resume(run / "base", run / "whole", child=child)

    for report in (static, loaded):
        assert (report.verdict, codes(report)) == ("compatible", {"AD810"}), str(report)
    assert not {one.rule.code for one in loaded.diagnosis.unknown if one.rule.code.startswith("AD8")}


def test_shards_beside_an_adapter_are_called_resumable(run: Path, child: LoadingChild) -> None:
    static = adapter_doctor.resume(run / "base", run / "beside", load="no", cache=False)
    loaded = adapter_doctor.resume(run / "base", run / "beside", child=child)

    for report in (static, loaded):
        assert (report.verdict, codes(report)) == ("compatible", {"AD810"}), str(report)
    assert not {one.rule.code for one in loaded.diagnosis.unknown if one.rule.code.startswith("AD8")}


def test_a_moment_that_is_not_finite_is_found_in_its_shard(run: Path, child: LoadingChild) -> None:
    report = adapter_doctor.resume(run / "base", run / "poisoned", child=child)

    assert codes(report) == {"AD810", "AD819"}, str(report)
    assert report.cause is not None
    assert report.cause.hits[0].examples == (BAD,)


def first(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], None]:
    """A change to what is kept of the first parameter."""

    def apply(saved: dict[str, Any]) -> None:
        change(next(iter(saved["state"].values())))

    return apply


def exchanged(saved: dict[str, Any]) -> None:
    """Two moments of one shape under each other's names."""
    one, other = (BAD.replace("1.self_attn.v", f"{layer}.self_attn.q") for layer in (0, 1))
    kept = saved["state"]
    kept[one], kept[other] = kept[other], kept[one]


def test_names_in_another_order_are_no_fault(run: Path, tmp_path: Path, child: LoadingChild) -> None:
    place = copied(run, "whole", tmp_path)
    saved = torch.load(place / "optimizer.bin", weights_only=True)
    saved["param_groups"][0]["params"].reverse()
    torch.save(saved, place / "optimizer.bin")

    report = adapter_doctor.resume(run / "base", place, child=child)

    assert (report.verdict, codes(report)) == ("compatible", {"AD810"}), str(report)


@pytest.mark.parametrize(("change", "says"), [
    (first(lambda kept: kept["exp_avg"].fill_(float("nan"))), "AD819"),
    (first(lambda kept: kept.update(exp_avg=torch.zeros(8, 32), exp_avg_sq=torch.zeros(8, 32))), "AD804"),
    (first(lambda kept: kept.pop("exp_avg_sq")), "AD823"),
    (exchanged, "AD831"),
    (lambda saved: saved["state"].pop(next(iter(saved["state"]))), "AD814"),
    (lambda saved: saved["state"].update(elsewhere=next(iter(saved["state"].values()))), "AD807"),
])  # fmt: skip
def test_a_hurt_whole_state_is_given_its_rule(
    change: Callable[[Any], Any], says: str, run: Path, tmp_path: Path, child: LoadingChild
) -> None:
    place = copied(run, "whole", tmp_path)
    saved = torch.load(place / "optimizer.bin", weights_only=True)
    change(saved)
    torch.save(saved, place / "optimizer.bin")

    report = adapter_doctor.resume(run / "base", place, child=child)

    assert codes(report) == {"AD810", says}, str(report)


def without(name: str) -> Callable[[Path], Any]:
    return lambda place: (place / name).unlink()


def cut(place: Path) -> None:
    path = place / "optimizer_0" / "__0_0.distcp"
    path.write_bytes(path.read_bytes()[:-100])


# What the Trainer did with each, on two processes: it raises, except for the last two, which it goes on from in silence.
@pytest.mark.parametrize(("change", "says"), [
    (without("optimizer_0/__0_0.distcp"), {"AD832"}),  # FileNotFoundError
    (without("pytorch_model_fsdp_0/__0_0.distcp"), {"AD832"}),
    (without("optimizer_0/.metadata"), {"AD832"}),  # AssertionError: metadata is None
    (lambda place: shutil.rmtree(place / "pytorch_model_fsdp_0"), {"AD832"}),  # ValueError: Can't find a valid checkpoint
    (cut, {"AD832"}),  # RuntimeError: PytorchStreamReader
    (without("trainer_state.json"), {"AD817"}),
    (without("scheduler.pt"), {"AD812"}),
    (lambda place: shutil.rmtree(place / "optimizer_0"), {"AD801"}),
])  # fmt: skip
def test_what_lacks_is_told(change: Callable[[Path], Any], says: set[str], run: Path, tmp_path: Path) -> None:
    place = copied(run, "sharded", tmp_path)
    change(place)

    report = adapter_doctor.resume(run / "base", place, load="no", cache=False)

    assert codes(report) - {"AD810"} == says, str(report)
    assert "this is no training checkpoint" not in str(report)


def test_metadata_too_large_to_list_leave_the_verdict_open(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a large adapter on very many processes."""
    monkeypatch.setattr("adapter_doctor.formats.torch_pickle.MAX_OPCODES", 1500)

    report = adapter_doctor.resume(run / "base", run / "beside", load="no", cache=False)

    assert codes(report) <= {"AD802", "AD810", "AD820"}, str(
        report
    )  # AD820 of the schedule, listed by the same machine
    assert "AD832" not in codes(report)


def test_an_adapter_that_was_not_saved_is_told(run: Path) -> None:
    """FSDP1 saves an empty state of a PeftModel whose layers are wrapped."""
    report = adapter_doctor.resume(run / "base", run / "empty", load="no", cache=False)

    assert codes(report) == {"AD810", "AD834"}
    assert report.verdict == "incompatible"


def test_code_in_the_metadata_is_told_and_not_run(run: Path, tmp_path: Path) -> None:
    """torch unpickles it as it is."""
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return exec, (f"open({str(ran)!r}, 'w')",)

    place = copied(run, "sharded", tmp_path)
    (place / "optimizer_0" / ".metadata").write_bytes(pickle.dumps(Evil(), protocol=2))

    report = adapter_doctor.resume(run / "base", place, load="no", cache=False)

    assert codes(report) == {"AD810", "AD832"}
    assert report.cause is not None
    assert "exec, which its reader would run" in report.cause.hits[0].message
    assert not ran.exists()


def regrouped(place: Path, *keys: str) -> None:
    """The optimizer's shards become those of one that has a single group, and keeps these of each parameter."""
    named = {name: one.detach() for name, one in model().named_parameters() if one.requires_grad}
    moments = {name: {key: torch.zeros_like(one) for key in keys} for name, one in named.items() if keys}
    state = {"state": moments, "param_groups": [{"lr": 1e-3, "params": list(named)}]}
    shutil.rmtree(place / "optimizer_0")
    dcp.save({"optimizer": state}, checkpoint_id=place / "optimizer_0", no_dist=True)


def test_an_optimizer_without_moments_has_nothing_that_could_lack(
    run: Path, tmp_path: Path, child: LoadingChild
) -> None:
    """As SGD without momentum."""
    place = copied(run, "beside", tmp_path)
    regrouped(place)

    report = adapter_doctor.resume(run / "base", place, child=child)

    assert (report.verdict, codes(report)) == ("compatible", {"AD810"}), str(report)


def test_a_single_group_that_accelerate_saved_stays_one(run: Path, tmp_path: Path) -> None:
    place = copied(run, "beside", tmp_path)
    regrouped(place, "step", "exp_avg", "exp_avg_sq")
    (place / "trainer_state.json").unlink()
    (place / "rng_state.pth").rename(place / "random_states_0.pkl")
    (place / "scheduler.pt").unlink()
    torch.save({"base_lrs": [1e-3], "last_epoch": 3}, place / "scheduler.bin")
    sound = adapter_doctor.resume(run / "base", place, load="no", cache=False)
    torch.save({"base_lrs": [1e-3] * 3, "last_epoch": 3}, place / "scheduler.bin")
    hurt = adapter_doctor.resume(run / "base", place, load="no", cache=False)

    assert (sound.verdict, codes(sound)) == ("compatible", {"AD810"}), str(sound)
    assert codes(hurt) == {"AD810", "AD828"}
    assert hurt.cause is not None
    assert hurt.cause.hits[0].where == "scheduler.bin"


def test_a_whole_state_is_of_as_many_processes_as_left_a_random_state(run: Path, tmp_path: Path) -> None:
    place = copied(run, "whole", tmp_path)
    for rank in range(8):
        shutil.copyfile(run / "whole" / "rng_state.pth", place / f"rng_state_{rank}.pth")

    for world, says in ((8, {"AD810"}), (4, {"AD810", "AD825"})):
        report = adapter_doctor.resume(run / "base", place, load="no", cache=False, world_size=world)
        assert codes(report) == says, str(report)


def deep() -> Any:
    """Few bytes, and a text without end."""
    one: Any = "x"
    for _ in range(40):
        one = (one, one)
    return one


@pytest.mark.parametrize("change", [
    *({"offset": number} for number in (-(2**70), 2**20000, -10)), {"length": -50},
    *({"path": ("optimizer", "state", one, "exp_avg")} for one in (2**20000, deep())),
])  # fmt: skip
def test_metadata_beyond_all_measure_give_a_report(change: dict[str, Any], run: Path, tmp_path: Path) -> None:
    place = copied(run, "beside", tmp_path)
    file = place / "optimizer_0" / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    path = change.pop("path", None)
    metadata.planner_data = {name: path or one for name, one in metadata.planner_data.items()}
    metadata.storage_data = {key: dataclasses.replace(one, **change) for key, one in metadata.storage_data.items()}
    file.write_bytes(pickle.dumps(metadata))

    report = adapter_doctor.resume(run / "base", place, load="no", cache=False)

    assert not report.diagnosis.crashed
    assert report.verdict == ("incompatible" if change else "undetermined"), str(report)
