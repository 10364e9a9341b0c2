"""States of bitsandbytes' optimizers, in 8 and in 32 bits: whose they are, and what is wrong with hurt ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import training
from bitsandbytes_state import WRAPPED, of_bitsandbytes

import adapter_doctor
from adapter_doctor.facts import Facts, OptimizerState, ResumePlan
from adapter_doctor.formats.optimizer_kinds import kind_of_moments
from adapter_doctor.gather.checkpoint import gather_training
from adapter_doctor.loading import child as loading
from adapter_doctor.loading.process import LoadingChild
from adapter_doctor.report import Report
from adapter_doctor.sources.disk import DiskSource

torch = pytest.importorskip("torch")

LORA = {"r": 128, "target_modules": ["q_proj", "v_proj", "up_proj"]}
"""Wide enough for moments in 8 bits."""
OPTIM = {"adamw": "adamw_bnb_8bit", "ademamix": "ademamix_8bit", "lion": "lion_8bit", "rmsprop": "rmsprop_bnb_8bit"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that torch's AdamW trained, and the base beside it."""
    folder = tmp_path_factory.mktemp("run")
    training.train(folder / "out", training.lora(**LORA), optim="adamw_torch", max_steps=7, save_steps=6)
    tiny.by_name("llama").build().save_pretrained(folder / "base")
    return folder


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    with LoadingChild() as one:
        yield one


@pytest.fixture
def place(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run / "out" / "checkpoint-6", tmp_path / "checkpoint-6"))


def save(place: Path, kind: str = "adamw", bits: int = 8, *, wrapped: bool = True) -> dict[str, Any]:
    """The checkpoint's state becomes one of bitsandbytes."""
    path = place / "optimizer.pt"
    state = of_bitsandbytes(torch.load(path, weights_only=True), kind, bits, wrapped=wrapped)
    torch.save(state, path)
    return state


def codes(report: Report) -> set[str]:
    return {one.rule.code for one in report.findings if one.rule.code.startswith("AD8") and one.consequence_of is None}


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize(("kind", "name"), [
    ("adamw", "AdamW"), ("ademamix", "AdEMAMix"), ("lion", "Lion"), ("rmsprop", "RMSprop"),
])  # fmt: skip
def test_a_healthy_state_is_known_and_called_resumable(
    kind: str, name: str, bits: int, run: Path, place: Path, child: LoadingChild
) -> None:
    save(place, kind, bits)

    facts = gather_training(DiskSource(place, "here"), Facts(), None, ResumePlan())
    state = facts.get(OptimizerState)
    static = adapter_doctor.resume(run / "base", place, load="no", cache=False, optim=OPTIM[kind])
    loaded = adapter_doctor.resume(run / "base", place, child=child, optim=OPTIM[kind]) if bits == 8 else static

    assert isinstance(state, OptimizerState)
    assert (found := kind_of_moments(state)) is not None
    assert found.name.endswith(f"{name} of bitsandbytes")
    assert (found.name.partition(" ")[0] == f"{bits}-bit") == (kind == "adamw")
    assert state.steps == (6.0,)
    for report in (static, loaded):
        assert (report.verdict, codes(report)) == ("compatible", set()), str(report)


def test_a_state_of_a_release_that_did_not_wrap_is_read_as_well(run: Path, place: Path, child: LoadingChild) -> None:
    save(place, wrapped=False)

    report = adapter_doctor.resume(run / "base", place, child=child, optim="adamw_bnb_8bit")

    assert (report.verdict, codes(report)) == ("compatible", set()), str(report)


def test_the_arguments_that_name_another_optimizer_are_told(run: Path, place: Path) -> None:
    save(place)

    report = adapter_doctor.resume(run / "base", place, load="no", cache=False)

    assert codes(report) == {"AD830"}
    assert "the state is that of 8-bit AdamW of bitsandbytes" in str(report)
    assert "the moments of 6 steps (state1, state2 of 18 parameters)" in " ".join(report.notes)


def moments(change: Callable[[dict[str, Any]], Any], *keys: int) -> Callable[[dict[str, Any]], None]:
    """A change to what is wrapped, of the parameters with these ids."""

    def apply(state: dict[str, Any]) -> None:
        for key in keys:
            change(state["state"][key][WRAPPED])

    return apply


def exchange(one: int, other: int) -> Callable[[dict[str, Any]], None]:
    def apply(state: dict[str, Any]) -> None:
        kept = state["state"]
        kept[one], kept[other] = kept[other], kept[one]

    return apply


def narrower(kept: dict[str, Any]) -> None:
    kept.update({name: one[:64].contiguous() for name, one in kept.items() if name.startswith("state")})


# What bitsandbytes 0.50.2 does with each on a CPU: raises for shapes and keys that lack, and is silent about the others.
@pytest.mark.parametrize(("change", "bits", "says"), [
    (moments(narrower, 0), 8, "AD804"),
    (moments(narrower, 0), 32, "AD804"),
    (exchange(0, 1), 8, "AD805"),
    (exchange(1, 7), 8, "AD831"),
    (exchange(1, 7), 32, "AD831"),
    (lambda state: state["state"].pop(3), 8, "AD814"),
    (lambda state: state["state"].clear(), 8, "AD814"),
    (moments(lambda kept: kept["absmax1"].fill_(float("nan")), 0), 8, "AD819"),
    (moments(lambda kept: kept["state1"].fill_(float("nan")), 0), 32, "AD819"),
    (moments(lambda kept: kept.pop("state2"), 0), 8, "AD823"),
    (moments(lambda kept: kept.pop("absmax1"), 0), 8, "AD823"),
    (lambda state: state["state"][0].pop(WRAPPED), 8, "AD823"),
    (lambda state: state["state"][0].pop("step"), 8, "AD823"),
])  # fmt: skip
def test_a_hurt_state_is_given_its_rule(
    change: Callable[[Any], Any], bits: int, says: str, run: Path, place: Path, child: LoadingChild
) -> None:
    state = save(place, bits=bits)
    change(state)
    torch.save(state, place / "optimizer.pt")

    options: dict[str, Any] = {"child": child} if says in ("AD819", "AD831") else {"load": "no", "cache": False}
    report = adapter_doctor.resume(run / "base", place, optim="adamw_bnb_8bit", **options)

    assert codes(report) == {says}, str(report)
    assert report.verdict == "incompatible"


@pytest.mark.parametrize(("kind", "goes_on", "says"), [
    ("adamw", "adamw_torch", {"AD806"}),  # KeyError: 'exp_avg'
    ("adamw", "lion_8bit", {"AD806"}),  # silent
    ("adamw", "ademamix_8bit", {"AD806"}),  # RuntimeError on a CPU
    ("ademamix", "adamw_bnb_8bit", {"AD806"}),  # RuntimeError on a CPU
    ("lion", "rmsprop_bnb_8bit", {"AD806"}),  # silent, and the loss is 0 after a step
    ("rmsprop", "lion_8bit", {"AD806"}),  # silent
    ("lion", "adamw_bnb_8bit", {"AD806"}),  # KeyError: 'state2'
    ("adamw", "paged_adamw_32bit", set()),  # the same losses: each goes on with what the state holds
    ("lion", "paged_lion_32bit", set()),
])  # fmt: skip
def test_another_optimizer_than_that_of_the_state(
    kind: str, goes_on: str, says: set[str], run: Path, place: Path
) -> None:
    save(place, kind)

    report = adapter_doctor.resume(run / "base", place, load="no", cache=False, optim=goes_on)

    assert codes(report) == says, str(report)


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("kind", ["adamw", "ademamix", "lion", "rmsprop"])
def test_bitsandbytes_itself_saves_such_a_state(kind: str, bits: int) -> None:
    library = pytest.importorskip("bitsandbytes")
    names = {"adamw": "AdamW", "ademamix": "AdEMAMix", "lion": "Lion", "rmsprop": "RMSprop"}
    weight = torch.nn.Parameter(torch.ones(128, 32))
    make = getattr(library.optim, names[kind] + ("8bit" if bits == 8 else ""))
    theirs, torchs = make([weight], lr=0.005), torch.optim.AdamW([weight], lr=0.005)
    weight.grad = torch.rand_like(weight)
    theirs.step()
    torchs.step()

    saved, ours = theirs.state_dict(), of_bitsandbytes(torchs.state_dict(), kind, bits)

    assert _forms(saved["state"]) == _forms(ours["state"])
    assert {*saved["param_groups"][0], "initial_lr"} == set(ours["param_groups"][0])


def _forms(value: Any) -> Any:
    """Names, dtypes and shapes."""
    if isinstance(value, dict):
        return {key: _forms(one) for key, one in value.items()}
    return (value.dtype, value.shape) if torch.is_tensor(value) else type(value)


@pytest.mark.parametrize("state", [
    {"state": {0: {WRAPPED: torch.ones(2)}}, "param_groups": [{"params": [0]}]},
    {"state": {0: {WRAPPED: [1]}}, "param_groups": [{"params": [0]}]},
    {"state": {}, "param_groups": [{"params": [[0]]}]},
    {"state": [1], "param_groups": [{"params": [0]}]},
])  # fmt: skip
def test_moments_of_strange_shape_are_answered_by_the_child(state: dict[str, Any], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "optimizer.pt")

    answer: Any = loading.moments(str(tmp_path / "optimizer.pt"), "", ["a"], [None])  # type: ignore[no-untyped-call]

    assert "refusal" in answer or answer == {"not_finite": [], "misplaced": []}
