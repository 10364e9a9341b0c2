"""Checkpoints that the Trainer really made, hurt one at a time: what the doctor says, and what torch does with each."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tiny
import training

import adapter_doctor
from adapter_doctor.knowledge.module_order import in_model_order
from adapter_doctor.loading.process import LoadingChild
from adapter_doctor.report import Report

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers about its own future, when PEFT asks

SILENT = ""
"""The resume goes through, and the losses are not those of an unbroken run."""
UNHARMED = "unharmed"
"""The resume goes through, with the losses of an unbroken run."""


@dataclass(frozen=True)
class Run:
    """A training to be resumed: what made it, and what making it again takes."""

    config: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    kind: str = "LoraConfig"
    prepare: Callable[[Any], Any] | None = None
    optimizers: Callable[[Any], Any] | None = None

    def go(self, folder: Path, resume: Path | None = None, config: dict[str, Any] | None = None, **more: Any) -> Any:
        import peft

        fields = {**self.config, **(config or {})}
        made = training.lora(**fields) if self.kind == "LoraConfig" else getattr(peft, self.kind)(**fields)
        return training.train(
            folder, made, resume=resume, prepare=self.prepare, optimizers=self.optimizers, **{**self.arguments, **more}
        )


def unfrozen_embedding(model: Any) -> None:
    model.get_input_embeddings().weight.requires_grad_(True)


def loraplus(model: Any) -> Any:
    import torch
    from peft.optimizers import create_loraplus_optimizer

    return create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-2, loraplus_lr_ratio=4), None


def trained(model: Any) -> list[Any]:
    return [one for one in model.parameters() if one.requires_grad]


def one_group(model: Any) -> Any:
    import torch

    return torch.optim.AdamW(trained(model), lr=1e-2), None


def everything(model: Any) -> Any:
    import torch

    return torch.optim.AdamW(model.parameters(), lr=1e-2), None


def rmsprop(model: Any) -> Any:
    import torch

    return torch.optim.RMSprop(trained(model), lr=1e-3), None


def lion(model: Any) -> Any:
    from lion_pytorch import Lion

    return Lion(trained(model), lr=1e-3), None


def prodigy(model: Any) -> Any:
    from prodigyopt import Prodigy

    return Prodigy(trained(model), lr=1.0), None


def came(model: Any) -> Any:
    from came_pytorch import CAME

    return CAME(trained(model), lr=1e-3), None


def lora_fa(model: Any) -> Any:
    from peft.optimizers import create_lorafa_optimizer

    return create_lorafa_optimizer(model, r=4, lora_alpha=8, lr=1e-2), None


ADAMW = {"optim": "adamw_torch"}
RUNS = {
    "AdamW": Run(arguments=ADAMW),
    "fused AdamW, the Trainer's default": Run(),
    "Adafactor": Run(arguments={"optim": "adafactor"}),
    "SGD": Run(arguments={"optim": "sgd"}),
    "SGD with momentum": Run(arguments={"optim": "sgd", "optim_args": "momentum=0.9"}),
    "RMSprop": Run(arguments={"optim": "rmsprop"}),
    "modules saved whole": Run({"modules_to_save": ["embed_tokens", "lm_head"]}),
    "DoRA": Run({"use_dora": True}),
    "an adapted embedding": Run({"target_modules": ["embed_tokens", "q_proj"]}),
    "norms and weight decay": Run(
        {"modules_to_save": ["input_layernorm", "norm"]}, {"weight_decay": 0.1, "lr_scheduler_type": "cosine"}
    ),
    "LoRA+ with its four groups": Run(optimizers=loraplus),
    "one group of everything": Run(optimizers=one_group),
    "all parameters, frozen ones too": Run(optimizers=everything),
    "an optimizer of the user's own": Run(optimizers=rmsprop),
    "Lion": Run(optimizers=lion),
    "Prodigy": Run(optimizers=prodigy),
    "CAME": Run(optimizers=came),
    "LoRA-FA, whose moments have names": Run(optimizers=lora_fa),
    "schedule-free AdamW": Run(arguments={"optim": "schedule_free_adamw", "lr_scheduler_type": "constant"}),
    "schedule-free SGD": Run(arguments={"optim": "schedule_free_sgd", "lr_scheduler_type": "constant"}),
    "IA3": Run(
        {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"], "task_type": "CAUSAL_LM"},
        kind="IA3Config",
    ),
    "prompt tuning": Run({"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}, kind="PromptTuningConfig"),
}
OTHERS = {
    "an embedding unfrozen by hand": Run(arguments=ADAMW, prepare=unfrozen_embedding),
    "a prompt encoder": Run(
        {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4, "encoder_hidden_size": 16}, ADAMW, "PromptEncoderConfig"
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    tiny.by_name("llama").build().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    with LoadingChild() as one:
        yield one


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[float]]]:
    """The folder and the losses of a run by its name; each is trained once."""
    folder = tmp_path_factory.mktemp("runs")
    done: dict[str, tuple[Path, list[float]]] = {}

    def make(name: str) -> tuple[Path, list[float]]:
        if name not in done:
            place = folder / str(len(done))
            done[name] = place, {**RUNS, **OTHERS}[name].go(place)[1]
        return done[name]

    return make


def codes(report: Report) -> set[str]:
    """Codes of the findings about the checkpoint that stand for themselves."""
    return {one.rule.code for one in report.findings if one.rule.code.startswith("AD8") and one.consequence_of is None}


# ------------------------------------------------------------------------------------------------ healthy checkpoints


@pytest.mark.parametrize("name", RUNS)
def test_a_healthy_checkpoint_is_called_resumable_and_resumes_unbroken(
    name: str, base: Path, child: LoadingChild, made: Any, tmp_path: Path
) -> None:
    folder, losses = made(name)

    report = adapter_doctor.resume(base, training.halfway(folder), child=child)
    _, resumed = RUNS[name].go(tmp_path, training.halfway(folder))

    assert report.verdict == "compatible", str(report)
    brought = {"AD822", "AD830"} if RUNS[name].optimizers in (rmsprop, lion, prodigy, came) else {"AD822"}
    assert codes(report) == (brought if RUNS[name].optimizers else set())
    assert resumed == losses


@pytest.mark.parametrize(
    "name",
    [name for name, run in RUNS.items() if run.kind == "LoraConfig" and run.optimizers not in (everything, lora_fa)],
)
def test_a_healthy_lora_checkpoint_is_judged_without_loading(name: str, base: Path, made: Any) -> None:
    folder, _ = made(name)

    report = adapter_doctor.resume(base, training.halfway(folder), load="no", cache=False)

    assert report.verdict == "compatible", str(report)
    assert report.examined == "static"


# ------------------------------------------------------------------------------------------------------ hurt ones


@dataclass(frozen=True)
class Hurt:
    """A change to a checkpoint, the findings it must give, and what a resume really does with it."""

    change: Callable[[Path], Any]
    says: str
    does: str
    run: str = "AdamW"
    arguments: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


def nothing(folder: Path) -> None:
    """The checkpoint stays as it is."""


def edit(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """A change to what a torch file holds; what it returns, if anything but None, takes the place of it."""

    def apply(folder: Path) -> None:
        import torch

        value = torch.load(folder / name, weights_only=True)
        changed = change(value)
        torch.save(value if changed is None else changed, folder / name)

    return apply


def optimizer(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return edit("optimizer.pt", change)


def state(change: Callable[[dict[int, Any]], Any]) -> Callable[[Path], None]:
    """A change to the moments."""

    def apply(value: Any) -> None:
        change(value["state"])

    return optimizer(apply)


def groups(change: Callable[[list[Any]], Any]) -> Callable[[Path], None]:
    """A change to the parameter groups."""

    def apply(value: Any) -> None:
        change(value["param_groups"])

    return optimizer(apply)


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str, length: int = 300) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:length])

    return apply


def trainer_state(**fields: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "trainer_state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return apply


def swap(one: int, other: int) -> Callable[[dict[int, Any]], None]:
    def apply(moments: dict[int, Any]) -> None:
        moments[one], moments[other] = moments[other], moments[one]

    return apply


def each(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[int, Any]], None]:
    def apply(moments: dict[int, Any]) -> None:
        for kept in moments.values():
            change(kept)

    return apply


def reshaped(change: Callable[[Any], Any]) -> Callable[[dict[int, Any]], None]:
    def apply(moments: dict[int, Any]) -> None:
        for name in ("exp_avg", "exp_avg_sq"):
            moments[0][name] = change(moments[0][name])

    return apply


def narrow(kept: dict[str, Any]) -> None:
    import torch

    kept.update({name: one.to(torch.bfloat16) for name, one in kept.items() if name != "step"})


def eight_bit(kept: dict[str, Any]) -> None:
    import torch

    first, second = kept.pop("exp_avg"), kept.pop("exp_avg_sq")
    kept |= {"step": 3, "state1": first.to(torch.uint8), "state2": second.to(torch.uint8)}
    kept |= {"qmap1": torch.zeros(256), "absmax1": torch.zeros(1)}


def bigger(one: Any) -> Any:
    import torch

    return torch.zeros(8, 32)


def poisoned(kept: dict[str, Any]) -> None:
    kept["exp_avg"].fill_(float("nan"))


def zeros(rows: int) -> Callable[[dict[int, Any]], None]:
    """The first parameter's moments with another number of rows."""

    def apply(moments: dict[int, Any]) -> None:
        moments[0] = {name: one.new_zeros(rows, 32) for name, one in moments[0].items()}

    return apply


def not_a_number(name: str) -> Callable[[dict[int, Any]], None]:
    return lambda moments: moments[0][name].fill_(float("nan"))


def object_inside(folder: Path) -> None:
    import torch

    torch.save({"state": {}, "param_groups": [], "where": Path("a")}, folder / "optimizer.pt")


def scaler(folder: Path) -> None:
    import torch

    torch.save({"scale": 1.0}, folder / "scaler.pt")


def pointer(folder: Path) -> None:
    (folder / "optimizer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def going_on(optim: str, does: str) -> Hurt:
    """Another optimizer after schedule-free AdamW."""
    return Hurt(nothing, "AD806", does, "schedule-free AdamW", {"optim": optim}, {"optim": optim})


LION = "AD822 AD830"
"""What is said of a healthy state of an optimizer that the training brought along."""
HURT = {
    "no optimizer.pt": Hurt(without("optimizer.pt"), "AD801", SILENT),
    "optimizer.pt is cut off": Hurt(cut("optimizer.pt", 3000), "AD802", "RuntimeError: PytorchStreamReader"),
    "optimizer.pt is empty": Hurt(cut("optimizer.pt", 0), "AD802", "EOFError"),
    "optimizer.pt is an LFS pointer": Hurt(pointer, "AD802", "UnpicklingError"),
    "optimizer.pt holds a Python object": Hurt(object_inside, "AD802", "UnpicklingError: Weights only load failed"),
    "a group is gone": Hurt(groups(list.pop), "AD822 AD828", "ValueError: loaded state dict has a different number"),
    "a group more": Hurt(
        groups(lambda all_groups: all_groups.append(copy.deepcopy(all_groups[1]))), "AD803 AD828",
        "ValueError: loaded state dict has a different number of parameter groups",
    ),
    "a parameter is gone from its group": Hurt(
        groups(lambda all_groups: all_groups[0]["params"].pop()), "AD807 AD815",
        "ValueError: loaded state dict contains a parameter group",
    ),
    "parameters in the other group": Hurt(
        groups(lambda all_groups: all_groups[1]["params"].append(all_groups[0]["params"].pop())), "AD803",
        "ValueError: loaded state dict contains a parameter group",
    ),
    "moments of another rank": Hurt(state(reshaped(bigger)), "AD804", "RuntimeError: The size of tensor a"),
    "moments of another rank, fused": Hurt(
        state(reshaped(bigger)), "AD804", SILENT, "fused AdamW, the Trainer's default"
    ),
    "transposed moments, fused": Hurt(
        state(reshaped(lambda one: one.T.contiguous())), "AD804", SILENT, "fused AdamW, the Trainer's default"
    ),
    "moments of another shape exchanged": Hurt(state(swap(0, 1)), "AD805", "RuntimeError: The size of tensor a"),
    "moments of equal shape exchanged": Hurt(state(swap(1, 5)), "AD831", SILENT),
    "another optimizer's moments": Hurt(state(each(eight_bit)), "AD806", "KeyError: 'exp_avg'"),
    "going on with SGD": Hurt(
        nothing, "AD806", "KeyError: 'momentum'", arguments={"optim": "sgd"}, options={"optim": "sgd"}
    ),
    "going on with Adafactor": Hurt(
        nothing, "AD806", "KeyError: 'beta1'", arguments={"optim": "adafactor"}, options={"optim": "adafactor"}
    ),
    "going on with AdamW after SGD": Hurt(
        nothing, "AD806", "KeyError: 'betas'", "SGD", arguments={"optim": "adamw_torch"}, options={"optim": "adamw_torch"}
    ),
    "a key more": Hurt(optimizer(lambda value: value.update(extra_key=1)), "AD807", UNHARMED),
    "moments of no parameter": Hurt(state(lambda moments: moments.update({99: moments[0]})), "AD807", UNHARMED),
    "the training is over": Hurt(trainer_state(global_step=6), "AD808 AD811", SILENT),
    "no random state": Hurt(without("rng_state.pth"), "AD809", SILENT),
    "the steps of the schedule": Hurt(
        edit("scheduler.pt", lambda value: value.update(last_epoch=1, _step_count=2)), "AD811", SILENT
    ),
    "the steps of the optimizer": Hurt(state(each(lambda kept: kept["step"].fill_(1.0))), "AD811", SILENT),
    "the steps of the trainer": Hurt(trainer_state(global_step=2), "AD811", SILENT),
    "no scheduler.pt": Hurt(without("scheduler.pt"), "AD812", SILENT),
    "no moments at all": Hurt(state(dict.clear), "AD814", SILENT),
    "one parameter without moments": Hurt(state(lambda moments: moments.pop(3)), "AD814", SILENT),
    "no trainer_state.json": Hurt(without("trainer_state.json"), "AD817", "FileNotFoundError"),
    "trainer_state.json is cut off": Hurt(cut("trainer_state.json", 40), "AD817", "JSONDecodeError"),
    "the state inside another dict": Hurt(
        optimizer(lambda value: {"optimizer": value}), "AD818", "KeyError: 'param_groups'"
    ),
    "no groups": Hurt(optimizer(lambda value: {"state": value["state"]}), "AD818", "KeyError: 'param_groups'"),
    "no state": Hurt(optimizer(lambda value: {"param_groups": value["param_groups"]}), "AD818", "KeyError: 'state'"),
    "a model's weights": Hurt(optimizer(lambda value: {"weight": value["state"][0]["exp_avg"]}), "AD818", "KeyError"),
    "not finite": Hurt(state(each(poisoned)), "AD819", SILENT, "fused AdamW, the Trainer's default"),
    "scheduler.pt is cut off": Hurt(cut("scheduler.pt"), "AD820", "RuntimeError: PytorchStreamReader"),
    "rng_state.pth is cut off": Hurt(cut("rng_state.pth"), "AD820", "RuntimeError: PytorchStreamReader"),
    "no second moments": Hurt(state(each(lambda kept: kept.pop("exp_avg_sq"))), "AD823", "KeyError: 'exp_avg_sq'"),
    "no step": Hurt(state(each(lambda kept: kept.pop("step"))), "AD823", "KeyError: 'step'"),
    "no learning rate": Hurt(
        groups(lambda all_groups: [group.pop("lr") for group in all_groups]), "AD823", "KeyError: 'lr'"
    ),
    "no betas": Hurt(groups(lambda all_groups: [group.pop("betas") for group in all_groups]), "AD823", "KeyError"),
    "another batch size": Hurt(
        nothing, "AD826", SILENT, arguments={"per_device_train_batch_size": 2}, options={"batch_size": 2}
    ),
    "moments in bf16": Hurt(state(each(narrow)), "AD827", SILENT),
    "rates for one group": Hurt(
        edit("scheduler.pt", lambda value: value.update(base_lrs=[0.01])), "AD828", "ValueError: zip() argument 2"
    ),
    "an empty schedule": Hurt(edit("scheduler.pt", dict.clear), "AD828", "KeyError: 'lr_lambdas'"),
    "a scaler and no fp16": Hurt(scaler, "AD829", "AttributeError: 'NoneType' object has no attribute"),
    "an embedding trained and not saved": Hurt(nothing, "AD816", SILENT, "an embedding unfrozen by hand"),
    "a prompt encoder not saved": Hurt(nothing, "AD816", SILENT, "a prompt encoder"),
    "Lion's moments of another rank": Hurt(state(zeros(8)), f"{LION} AD804", "RuntimeError: The size of tensor a", "Lion"),
    "Lion's moments not finite": Hurt(state(not_a_number("exp_avg")), f"{LION} AD819", SILENT, "Lion"),
    "Lion without a moment": Hurt(state(lambda moments: moments.pop(3)), f"{LION} AD814", SILENT, "Lion"),
    "schedule-free, of another rank": Hurt(
        state(zeros(8)), "AD804", "RuntimeError: The size of tensor a", "schedule-free AdamW"
    ),
    "schedule-free, not finite": Hurt(state(not_a_number("z")), "AD819", SILENT, "schedule-free AdamW"),
    "schedule-free, one missing": Hurt(state(lambda moments: moments.pop(3)), "AD814", SILENT, "schedule-free AdamW"),
    "schedule-free, no z": Hurt(state(lambda moments: moments[0].pop("z")), "AD823", SILENT, "schedule-free AdamW"),
    "schedule-free, no weights summed": Hurt(
        groups(lambda all_groups: [group.pop("weight_sum") for group in all_groups]), "AD823", "KeyError: 'weight_sum'",
        "schedule-free AdamW",
    ),
    "going on with AdamW after schedule-free": going_on("adamw_torch", "KeyError: 'step'"),
    "going on with schedule-free SGD": going_on("schedule_free_sgd", "KeyError: 'momentum'"),
    "going on with schedule-free RAdam": going_on("schedule_free_radam", "KeyError: 'silent_sgd_phase'"),
}  # fmt: skip


@pytest.mark.parametrize("name", HURT)
def test_a_hurt_checkpoint_is_given_its_rule_and_torch_does_what_the_rule_says(
    name: str, base: Path, child: LoadingChild, made: Any, tmp_path: Path
) -> None:
    hurt = HURT[name]
    folder, losses = made(hurt.run)
    place = tmp_path / "checkpoint-3"
    shutil.copytree(training.halfway(folder), place)
    hurt.change(place)

    report = adapter_doctor.resume(base, place, child=child, **hurt.options)

    assert codes(report) == set(hurt.says.split()), str(report)
    assert report.verdict == ("compatible" if report.cause is None else "incompatible"), str(report)
    assert what_happens({**RUNS, **OTHERS}[hurt.run], place, losses, tmp_path, hurt) == hurt.does


def what_happens(run: Run, place: Path, losses: list[float], folder: Path, hurt: Hurt) -> str:
    """What the Trainer does: as much of its exception as the case names, or whether the losses are the same."""
    try:
        _, resumed = run.go(folder / "out", place, hurt.config, **hurt.arguments)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return hurt.does if hurt.does and text.startswith(hurt.does) else text
    return UNHARMED if resumed == losses else SILENT


# ---------------------------------------------------------------------------------------------- the way to go on


def test_the_line_that_the_report_gives_resumes_unbroken(
    base: Path, child: LoadingChild, made: Any, tmp_path: Path
) -> None:
    from peft import PeftModel

    folder, losses = made("AdamW")
    place = str(training.halfway(folder))

    report = adapter_doctor.resume(base, place, child=child)
    model = PeftModel.from_pretrained(tiny.by_name("llama").build(), place, is_trainable=True)
    _, resumed = training.train(tmp_path, None, model=model, resume=Path(place), optim="adamw_torch")

    said = f"PeftModel.from_pretrained(base, {place!r}, is_trainable=True)`, then `trainer.train(resume_from_checkpoint={place!r})"
    assert said in " ".join(report.notes)
    assert resumed == losses


def test_an_adapter_with_a_name_of_its_own_is_found_in_its_folder(
    base: Path, child: LoadingChild, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    _, losses = training.train(folder, training.lora(), adapter_name="mine")

    report = adapter_doctor.resume(base, training.halfway(folder), child=child)
    _, resumed = training.train(
        tmp_path / "again", training.lora(), adapter_name="mine", resume=training.halfway(folder)
    )

    assert (training.halfway(folder) / "mine" / "adapter_model.safetensors").exists()
    assert report.verdict == "compatible", str(report)
    assert "/mine', adapter_name='mine', is_trainable=True)" in " ".join(report.notes)
    assert resumed == losses


@pytest.mark.parametrize(("config", "says", "does"), [
    ({}, "", UNHARMED),
    ({"lora_alpha": 64}, "AD813", SILENT),
    ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, "AD803 AD813", "ValueError: loaded state dict contains a"),
    ({"modules_to_save": ["lm_head"]}, "AD803 AD813", "KeyError: 'base_model.model.lm_head.weight'"),
])  # fmt: skip
def test_a_model_in_memory_is_held_against_the_checkpoint_and_left_alone(
    config: dict[str, Any], says: str, does: str, made: Any, tmp_path: Path
) -> None:
    import peft
    import torch

    folder, losses = made("AdamW")
    place = training.halfway(folder)
    model = peft.get_peft_model(tiny.by_name("llama").build(), training.lora(**config))
    before = {name: one.clone() for name, one in model.state_dict().items()}

    report = adapter_doctor.resume(model, place)

    assert codes(report) == set(says.split()), str(report)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert what_happens(RUNS["AdamW"], place, losses, tmp_path, Hurt(nothing, says, does, config=config)) == does


def test_the_trainer_itself_would_take_the_newest_checkpoint_however_broken(made: Any, tmp_path: Path) -> None:
    from transformers.trainer_utils import get_last_checkpoint

    folder, _ = made("AdamW")
    place = tmp_path / "out"
    shutil.copytree(folder, place)
    (place / "checkpoint-6" / "trainer_state.json").unlink()

    assert get_last_checkpoint(str(place)) == str(place / "checkpoint-6")


def test_load_state_dict_has_no_strict_and_takes_extra_keys_as_they_are() -> None:
    import torch

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    state = optimizer.state_dict()

    optimizer.load_state_dict({**state, "extra_key": 1})
    with pytest.raises(TypeError, match="strict"):
        optimizer.load_state_dict(state, strict=False)


def test_the_evidence_of_exchanged_moments_is_silent_about_those_in_place() -> None:
    """Over many trainings: nothing is said of a state as it is, and of an exchange only the exchange."""
    import torch
    from peft import get_peft_model

    from adapter_doctor.loading.child import misplaced

    found = 0
    for seed in range(6):
        model = get_peft_model(
            tiny.by_name("llama").build(seed), training.lora(r=2 ** (seed % 4), target_modules="all-linear")
        )
        named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW([one for _, one in named], lr=10 ** -(1 + seed % 3))
        ids = torch.randint(3, tiny.VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(seed))
        for _ in range(12):
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
        state = optimizer.state_dict()["state"]
        triples = [(at, name, one.detach()) for at, (name, one) in enumerate(named)]
        one, other = (
            at for at, name, _ in triples if name.endswith("up_proj.lora_B.default.weight") and ".2." not in name
        )

        assert misplaced(state, triples) == []  # type: ignore[no-untyped-call]
        said = misplaced({**state, one: state[other], other: state[one]}, triples)  # type: ignore[no-untyped-call]
        assert sorted(said) in ([], [[one, other], [other, one]])
        found += bool(said)

    assert found >= 3


@pytest.mark.parametrize("one", tiny.ARCHITECTURES, ids=lambda one: one.name)
def test_the_table_gives_the_modules_in_the_order_of_the_model(one: tiny.Tiny) -> None:
    model = one.build()
    names = [name for name, module in model.named_modules() if module._parameters and name]

    found = in_model_order(sorted(names), type(model).__name__)

    assert found is None or found == names
    assert found is not None or one.name in ("qwen3-moe", "mixtral")


def test_a_class_that_is_not_in_the_table_has_no_order() -> None:
    assert in_model_order(["a", "b"], "NobodyForCausalLM") is None
    assert in_model_order(["lm_head", "model.strange"], "LlamaForCausalLM") is None
