"""What the rules of the config say of PEFT, put to PEFT itself: it raises, or the output is the base's."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from adapter_doctor import knowledge
from adapter_doctor.engine import Fired, judge
from adapter_doctor.facts import AdapterConfig, BaseConfig, BaseModules, Environment, Facts, Module
from adapter_doctor.formats.config_patterns import pattern_trouble
from adapter_doctor.rules import Rule
from adapter_doctor.rules.config._demands import SHARED, demands_of
from adapter_doctor.rules.config.bad_target_pattern import bad_target_pattern
from adapter_doctor.rules.config.conflicting_fields import conflicting_fields
from adapter_doctor.rules.config.invalid_value import invalid_value
from adapter_doctor.rules.config.no_targets import no_targets
from adapter_doctor.rules.config.prompt_never_used import prompt_never_used
from adapter_doctor.rules.config.scaling_zero import scaling_zero
from adapter_doctor.rules.config.truthy_string import truthy_string

Change = Mapping[str, Any]
ENVIRONMENT = Environment("3.11", {"peft": "0.21.2"})
NAN = float("nan")
_QV = {"target_modules": ["q_proj", "v_proj"]}
_TASK = {"task_type": "CAUSAL_LM"}
# One small adapter of each type: config class and arguments.
KINDS: dict[str, tuple[str, Change]] = {
    "LORA": ("LoraConfig", {"r": 4, **_QV}),
    "ADALORA": ("AdaLoraConfig", {"init_r": 4, "target_r": 2, "total_step": 10, **_QV}),
    "IA3": ("IA3Config", {"target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "LOHA": ("LoHaConfig", {"r": 4, **_QV}),
    "LOKR": ("LoKrConfig", {"r": 2, **_QV}),
    "OFT": ("OFTConfig", {"oft_block_size": 4, **_QV}),
    "BOFT": ("BOFTConfig", {"boft_block_size": 4, **_QV}),
    "POLY": ("PolyConfig", {"r": 4, **_QV}),
    "LN_TUNING": ("LNTuningConfig", {"target_modules": ["input_layernorm"]}),
    "VERA": ("VeraConfig", {"r": 4, **_QV}),
    "FOURIERFT": ("FourierFTConfig", {"n_frequency": 20, **_QV}),
    "HRA": ("HRAConfig", {"r": 4, **_QV}),
    "VBLORA": ("VBLoRAConfig", {"r": 4, "num_vectors": 6, "vector_length": 4, **_QV}),
    "RANDLORA": ("RandLoraConfig", {"r": 4, **_QV}),
    "C3A": ("C3AConfig", {"block_size": 4, **_QV}),
    "MISS": ("MissConfig", {"r": 4, **_QV}),
    "SHIRA": ("ShiraConfig", {"r": 4, **_QV}),
    "ROAD": ("RoadConfig", {"group_size": 4, **_QV}),
    "WAVEFT": ("WaveFTConfig", {"n_frequency": 20, **_QV}),
    "DELORA": ("DeloraConfig", {"r": 4, **_QV}),
    "LILY": ("LilyConfig", {"r": 4, **_QV}),
    "PVERA": ("PveraConfig", {"r": 4, **_QV}),
    "GRALORA": ("GraloraConfig", {"r": 4, **_QV}),
    "TINYLORA": ("TinyLoraConfig", {"r": 2, "u": 4, **_QV}),
    "PSOFT": ("PsoftConfig", {"r": 4, **_QV}),
    "PEANUT": ("PeanutConfig", {"r": 4, **_QV}),
    "GLORA": ("GloraConfig", {"r": 4, **_QV}),
    "UNILORA": ("UniLoraConfig", {"r": 4, "theta_d_length": 16, **_QV}),
    "HIRA": ("HiraConfig", {"r": 4, **_QV}),
    "DEFT": ("DeftConfig", {"r": 4, **_QV}),
    "SUPERTUNING": ("SupertuningConfig", {"sparsity": 0.5, **_QV}),
    "FROD": ("FrodConfig", {"progressbar": False, **_QV}),
    "SHADOW": ("ShadowConfig", {}),
    "TRAINABLE_TOKENS": ("TrainableTokensConfig", {"token_indices": [1, 2]}),
    "ADAPTION_PROMPT": ("AdaptionPromptConfig", {"adapter_len": 4, "adapter_layers": 2}),
    "PROMPT_TUNING": ("PromptTuningConfig", {"num_virtual_tokens": 3}),
    "P_TUNING": ("PromptEncoderConfig", {"num_virtual_tokens": 3, "encoder_hidden_size": 8}),
    "PREFIX_TUNING": ("PrefixTuningConfig", {"num_virtual_tokens": 3}),
    "MULTITASK_PROMPT_TUNING": ("MultitaskPromptTuningConfig", {"num_virtual_tokens": 3, "num_tasks": 2}),
    "CPT": ("CPTConfig", {"cpt_token_ids": [1, 2, 3]}),
    "CARTRIDGE": ("CartridgeConfig", {"num_virtual_tokens": 3}),
}


@dataclass
class Answer:
    """What PEFT did: the exception at the load or in the forward pass, or the logits."""

    raised: str = ""
    logits: Any = None


@dataclass
class Peft:
    """PEFT with one tiny Llama; adapters are made once for each type, and loaded with a changed config."""

    folder: Path
    made: dict[str, tuple[Path, Answer]] = field(default_factory=dict)
    bases: dict[str, Any] = field(default_factory=dict)
    loads: int = 0

    def base(self, model_type: str = "llama") -> Any:
        """The tiny Llama, or the same under another model type, as it was before any adapter."""
        if model_type not in self.bases:
            self.bases[model_type] = self.new_base(model_type)
        return copy.deepcopy(self.bases[model_type])

    def new_base(self, model_type: str) -> Any:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = type("Config", (LlamaConfig,), {"model_type": model_type})(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=32, pad_token_id=0,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()

    def run(self, model: Any) -> Answer:
        import torch

        try:
            with torch.no_grad():
                return Answer(logits=model(input_ids=torch.tensor([[1, 5, 7, 9, 3, 2]])).logits)
        except Exception as error:
            return Answer(f"{type(error).__name__}: {error}")

    def trained(self, kind: str, change: Change | None = None) -> tuple[Path, Answer]:
        """A folder with an adapter of random values, and its answer."""
        import peft
        import torch

        name = f"{kind} {sorted((change or {}).items())}"
        if name not in self.made:
            class_name, arguments = KINDS[kind]
            config = getattr(peft, class_name)(**{**arguments, **_TASK, **(change or {})})
            model = peft.get_peft_model(self.base(), config)
            torch.manual_seed(1)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data.normal_(std=0.3)
            folder = self.folder / f"trained-{len(self.made)}"
            model.eval().save_pretrained(folder)
            self.made[name] = folder, self.run(model)
        return self.made[name]

    def config(self, kind: str, change: Change | None = None, remove: tuple[str, ...] = ()) -> dict[str, Any]:
        """The saved config of an adapter of this type, changed."""
        raw = json.loads((self.trained(kind)[0] / "adapter_config.json").read_text("utf-8"))
        return {name: value for name, value in (raw | dict(change or {})).items() if name not in remove}

    def load(self, raw: Change, trained: Path) -> Answer:
        """What comes of loading the tensors of ``trained`` with another config."""
        import peft

        self.loads += 1
        folder = self.folder / f"load-{self.loads}"
        folder.mkdir()
        shutil.copy(trained / "adapter_model.safetensors", folder)
        (folder / "adapter_config.json").write_text(json.dumps(raw), "utf-8")
        try:
            model = peft.PeftModel.from_pretrained(self.base(), str(folder))
        except Exception as error:
            return Answer(f"{type(error).__name__}: {error}")
        return self.run(model.eval())

    def ask(self, kind: str, change: Change | None = None, remove: tuple[str, ...] = ()) -> Answer:
        """What comes of loading an adapter of this type with a changed config."""
        return self.load(self.config(kind, change, remove), self.trained(kind)[0])


@pytest.fixture(autouse=True)
def _warnings_do_not_matter_here() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def peft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peft]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield Peft(tmp_path_factory.mktemp("adapters"))
        torch.set_num_threads(threads)


def hits(rule: Rule[...], raw: Change, *facts: object) -> list[str]:
    """The messages of a rule for a config."""
    known = Facts().adding(AdapterConfig(raw), ENVIRONMENT, BaseConfig({"model_type": "llama"}), *facts)
    (outcome,) = judge([rule], known)
    return [hit.message for hit in outcome.hits] if isinstance(outcome, Fired) else []


def same(one: Answer, other: Answer) -> bool:
    return not one.raised and bool((one.logits - other.logits).abs().max() < 1e-5)


# --------------------------------------------------------------------------------------------- AD107 invalid-value

# For each demand the first of these that do not meet it are tried: three for LoRA, one for the rest.
_WRONG = (
    None, "8", 0, -1, 1.5, NAN, [8], {"q_proj": "8"}, {"q_proj": NAN}, "bogus", 2, 10**30, [3], ["x"], True, 3, {"a": 1},
)  # fmt: skip


def demanded() -> Iterator[Any]:
    for kind in KINDS:
        fields = knowledge.fields_of(kind)
        shared = {name: (one,) for name, one in SHARED.items() if name in fields}
        demands = demands_of(kind) | (shared if kind in ("LORA", "IA3", "VERA", "PROMPT_TUNING") else {})
        for name, several in demands.items():
            for at, demand in enumerate(several):
                earlier = several[:at]
                wrong = [one for one in _WRONG if not demand.met(one) and all(before.met(one) for before in earlier)]
                for value in wrong[: 3 if kind == "LORA" else 1]:
                    yield pytest.param(kind, name, value, demand.raises, id=f"{kind} {name} {value}")


@pytest.mark.parametrize(("kind", "name", "value", "raises"), list(demanded()))
def test_value_that_misses_a_demand_is_refused_or_gives_no_number(
    peft: Peft, kind: str, name: str, value: Any, raises: bool
) -> None:
    answer = peft.ask(kind, {name: value})

    (message,) = hits(invalid_value, peft.config(kind, {name: value}))
    assert message.startswith(f"`{name}` is ")
    if raises or name == "alora_invocation_tokens":
        assert answer.raised
    elif "pattern" not in name:  # one module of several: attention can hide its NaN
        assert not answer.logits.isfinite().all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("FROD", "BOFT")])
def test_task_that_peft_does_not_know_is_refused_for_every_type(peft: Peft, kind: str) -> None:
    for value in ("causal_lm", "VISION", 3, ["CAUSAL_LM"]):
        assert hits(invalid_value, peft.config(kind, {"task_type": value}))[0].startswith("`task_type` is ")
    assert "Invalid task type" in peft.ask(kind, {"task_type": "VISION"}).raised


TARGETED = [
    kind for kind in KINDS
    if "target_modules" in knowledge.fields_of(kind) and kind not in ("ADAPTION_PROMPT", "FROD", "BOFT")
]  # fmt: skip


@pytest.mark.parametrize("value", [3, ["q_proj", 3]], ids=str)
@pytest.mark.parametrize("kind", TARGETED)
def test_targets_that_are_no_names_are_refused(peft: Peft, kind: str, value: Any) -> None:
    assert peft.ask(kind, {"target_modules": value}).raised
    assert hits(invalid_value, peft.config(kind, {"target_modules": value}))


@pytest.mark.parametrize(
    ("kind", "change", "remove"),
    [
        ("LORA", {"lora_alpha": "16"}, ()),
        ("LORA", {"lora_alpha": 10**400}, ()),
        ("LORA", {"layers_to_transform": "0"}, ()),
        ("LORA", {"layers_to_transform": ["0"]}, ()),
        ("LORA", {"layers_to_transform": 1.0}, ()),
        ("LORA", {"modules_to_save": "lm_head"}, ()),
        ("LORA", {"modules_to_save": [""]}, ()),
        ("LORA", {"megatron_config": {"a": 1}}, ()),
        ("LORA", {"init_lora_weights": "corda"}, ()),
        ("LORA", {"init_lora_weights": "false"}, ()),
        ("LORA", {"init_lora_weights": "PISSA"}, ()),
        ("LORA", {"init_lora_weights": "pissa_4"}, ()),
        ("LORA", {"init_lora_weights": 1}, ()),
        ("LORA", {"target_parameters": "experts.down_proj"}, ()),
        ("LORA", {"arrow_config": {"top_k": 2}}, ()),
        ("LORA", {"monteclora_config": {"samples": 2}}, ()),
        ("LORA", {"rank_pattern": {"q_proj": 0}}, ()),
        ("OFT", {}, ("oft_block_size",)),
        ("OFT", {"peft_version": "main"}, ()),
        ("OFT", {"peft_version": None}, ()),
        ("ADALORA", {}, ("total_step",)),
        ("ADAPTION_PROMPT", {}, ("adapter_len",)),
        ("PROMPT_TUNING", {}, ("num_virtual_tokens",)),
        ("CARTRIDGE", {}, ("num_virtual_tokens",)),
        ("IA3", {"feedforward_modules": 3}, ()),
    ],
    ids=str,
)
def test_value_is_refused(peft: Peft, kind: str, change: Change, remove: tuple[str, ...]) -> None:
    assert peft.ask(kind, change, remove).raised
    assert len(hits(invalid_value, peft.config(kind, change, remove))) == 1


@pytest.mark.parametrize("value", [NAN, float("inf"), 10**60], ids=str)
def test_alpha_that_float32_cannot_hold_makes_every_output_nan(peft: Peft, value: float) -> None:
    assert not peft.ask("LORA", {"lora_alpha": value}).logits.isfinite().any()
    assert len(hits(invalid_value, peft.config("LORA", {"lora_alpha": value}))) == 1


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("LORA", {"lora_dropout": -0.1}),
        ("LORA", {"lora_dropout": 1}),
        ("LORA", {"bias": "lora_only"}),
        ("LORA", {"init_lora_weights": None}),
        ("LORA", {"init_lora_weights": "Gaussian"}),
        ("LORA", {"init_lora_weights": "lora_ga"}),
        ("LORA", {"target_modules": {"q_proj": 1, "v_proj": 1}}),
        ("LORA", {"exclude_modules": ["k_proj"]}),
        ("LORA", {"layers_to_transform": []}),
        ("LORA", {"layers_to_transform": [0, 1]}),
        ("LORA", {"modules_to_save": []}),
        ("LORA", {"megatron_config": {}}),
        ("LORA", {"eva_config": {"later_field": 1}}),
        ("LORA", {"trainable_token_indices": {}}),
        ("LORA", {"peft_version": "9.9.9"}),
        ("LORA", {"inference_mode": "false"}),
        ("LORA", {"fan_in_fan_out": "false"}),
        ("ADALORA", {"r": None}),
        ("ADALORA", {"rank_pattern": None}),
        ("OFT", {"peft_version": "0.18.0.dev0@abc"}),
        ("LOKR", {"init_weights": "lycoris"}),
        ("LOHA", {"rank_dropout": None}),
    ],
    ids=str,
)
def test_odd_value_that_peft_takes_is_not_held_against_the_adapter(peft: Peft, kind: str, change: Change) -> None:
    raw = peft.config(kind, change)

    assert same(peft.ask(kind, change), peft.trained(kind)[1])
    assert [rule.code for rule in (invalid_value, conflicting_fields, truthy_string) if hits(rule, raw)] == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("FROD", "BOFT")])
def test_healthy_adapter_of_every_type_gets_no_hit(peft: Peft, kind: str) -> None:
    raw = peft.config(kind)
    rules = (
        invalid_value, conflicting_fields, no_targets, prompt_never_used, scaling_zero, truthy_string, bad_target_pattern,
    )  # fmt: skip

    assert [rule.code for rule in rules if hits(rule, raw)] == []


# ------------------------------------------------------------------------------------ AD108 no-targets, AD109 patterns


@pytest.mark.parametrize("kind", TARGETED)
def test_empty_targets_are_refused(peft: Peft, kind: str) -> None:
    values: list[Any] = [[], "", {}] if kind == "LORA" else [[]]
    for value in values:
        change = {"target_modules": value, "feedforward_modules": []} if kind == "IA3" else {"target_modules": value}

        assert peft.ask(kind, change).raised
        assert len(hits(no_targets, peft.config(kind, change))) == 1


@pytest.mark.parametrize("kind", ["LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "VERA", "FOURIERFT", "HIRA", "MISS"])
def test_null_targets_are_refused_for_a_model_type_without_default(peft: Peft, kind: str) -> None:
    import peft as library

    raw = peft.config(kind, {"target_modules": None})

    with pytest.raises(ValueError, match="Please specify `target_modules`"):
        library.get_peft_model(peft.base("dream"), library.PeftConfig.from_peft_type(**raw))
    assert len(hits(no_targets, raw, BaseConfig({"model_type": "dream"}))) == 1


@pytest.mark.parametrize("kind", ["LORA", "IA3", "OSF", "TRAINABLE_TOKENS", "SHADOW"])
def test_null_targets_are_filled_in_for_a_llama(peft: Peft, kind: str) -> None:
    if kind == "OSF":
        assert hits(no_targets, {"peft_type": "OSF", "target_modules": None}, BaseConfig({"model_type": "dream"})) == []
        return
    assert peft.ask(kind, {"target_modules": None}).raised == ""
    assert hits(no_targets, peft.config(kind, {"target_modules": None})) == []


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("LORA", {"target_modules": "*.q_proj"}),
        ("LORA", {"target_modules": "(q_proj"}),
        ("LORA", {"exclude_modules": "[k"}),
        ("LORA", {"rank_pattern": {"(": 4}}),
        ("LORA", {"alpha_pattern": {"q_proj[": 4}}),
        ("LORA", {"modules_to_save": ["head("]}),
        ("LORA", {"layers_to_transform": [0], "layers_pattern": "layers("}),
        ("IA3", {"feedforward_modules": "("}),
        ("HIRA", {"rank_pattern": {"(": 4}}),
        ("FOURIERFT", {"n_frequency_pattern": {"(": 4}}),
        ("C3A", {"block_size_pattern": {"(": 4}}),
        ("DELORA", {"lambda_pattern": {"(": 4}}),
    ],
    ids=str,
)
def test_broken_pattern_is_refused(peft: Peft, kind: str, change: Change) -> None:
    raised = peft.ask(kind, change).raised

    assert raised.startswith(("error: ", "PatternError: "))
    assert len(hits(bad_target_pattern, peft.config(kind, change))) == 1


def test_pattern_that_would_hang_the_load_is_found_without_hanging() -> None:
    config = AdapterConfig({"peft_type": "LORA", "target_modules": r"(\w*\.?)*!"})

    ((name, _, why),) = pattern_trouble(config, [])

    assert name == "target_modules"
    assert "does not finish" in why


# ------------------------------------------------------------------------------------------ AD113 conflicting-fields

_TEXT = {"target_modules": r".*\.(q_proj|v_proj)"}
_LAYERED = [kind for kind in KINDS if "layers_pattern" in knowledge.fields_of(kind) and kind not in ("FROD", "BOFT")]


@pytest.mark.parametrize(
    "change",
    [
        {**_TEXT, "layers_to_transform": [0]},
        {**_TEXT, "layers_pattern": "layers"},
        {**_TEXT, "layers_pattern": "layers", "layers_to_transform": [0]},
        {"layers_pattern": "layers"},
    ],
    ids=["layers beside text", "a pattern beside text", "both beside text", "a pattern alone"],
)
@pytest.mark.parametrize("kind", _LAYERED)
def test_layers_contradict_the_targets_exactly_where_peft_says_so(peft: Peft, kind: str, change: Change) -> None:
    raised = peft.ask(kind, change).raised
    refused = "cannot be used when" in raised or "must also be specified" in raised

    assert bool(hits(conflicting_fields, peft.config(kind, change))) == refused


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("LORA", {"use_dora": True, "megatron_config": {"a": 1}}),
        ("LORA", {"use_dora": True, "lora_bias": True}),
        ("LORA", {"lora_bias": True, "init_lora_weights": "gaussian"}),
        ("LORA", {"lora_bias": True, "init_lora_weights": None}),
        ("LORA", {"init_lora_weights": "loftq"}),
        ("LORA", {"use_dora": True, "kasa_config": {}}),
        ("LORA", {"use_dora": True, "velora_config": {}}),
        ("LORA", {"use_dora": True, "monteclora_config": {}}),
        ("LORA", {"use_dora": True, "use_bdlora": {"match_strict": False}}),
        ("LORA", {"use_dora": True, "alora_invocation_tokens": [1]}),
        ("LORA", {"use_dora": True, "init_lora_weights": "mica"}),
        ("LORA", {"kasa_config": {}, "velora_config": {}}),
        ("LORA", {"trainable_token_indices": {"embed_tokens": [1]}, "modules_to_save": ["embed_tokens"]}),
        ("LORA", {"trainable_token_indices": {"embed_tokens": [1]}, "target_modules": ["q_proj", "embed_tokens"]}),
        ("ADALORA", {"use_dora": True}),
        ("ADALORA", {"tinit": 5, "tfinal": 5}),
        ("IA3", {"feedforward_modules": ["up_proj"]}),
        ("OFT", {"r": 4}),
        ("OFT", {"oft_block_size": 0}),
        ("OFT", {"r": None}),
        ("BOFT", {"boft_block_num": 2}),
        ("BOFT", {"boft_block_size": 0}),
        ("GRALORA", {"r": 5}),
        ("CPT", {"task_type": None}),
        ("CPT", {"task_type": "SEQ_CLS"}),
        ("CPT", {"cpt_mask": [1]}),
        ("CPT", {"cpt_token_ids": None}),
        ("CARTRIDGE", {"num_frozen_tokens": 4}),
        ("PROMPT_TUNING", {"prompt_tuning_init": "TEXT"}),
        ("PROMPT_TUNING", {"prompt_tuning_init": "TEXT", "tokenizer_name_or_path": "gpt2"}),
        ("PROMPT_TUNING", {"tokenizer_kwargs": {"a": 1}}),
        ("MULTITASK_PROMPT_TUNING", {"prompt_tuning_init": "TEXT"}),
        ("SUPERTUNING", {"lora_alpha": 8}),
        ("SHADOW", {"shadow_model": "gpt2", "shadow_hidden_size": 8}),
    ],
    ids=str,
)
def test_contradiction_is_refused(peft: Peft, kind: str, change: Change) -> None:
    assert peft.ask(kind, change).raised
    assert hits(conflicting_fields, peft.config(kind, change))


@pytest.mark.parametrize(
    ("name", "value"),
    [("lora_dropout", 0.1), ("use_dora", True), ("lora_bias", True), ("kasa_config", {}), ("velora_config", {})],
    ids=str,
)
def test_lora_on_parameters_is_refused_with_what_it_cannot_do(peft: Peft, name: str, value: Any) -> None:
    change = {"target_parameters": ["mlp.up_proj.weight"], name: value}
    base = BaseModules({"model.layers.0.mlp.up_proj": Module("linear", {"weight": (24, 16)})}, "skeleton")

    assert "ParamWrapper does not work" in peft.ask("LORA", change).raised
    assert len(hits(conflicting_fields, peft.config("LORA", change), base)) == 1
    assert peft.ask("LORA", {**change, "target_parameters": ["nothing.weight"]}).raised == ""
    assert (
        hits(conflicting_fields, peft.config("LORA", {**change, "target_parameters": ["nothing.weight"]}), base) == []
    )


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("LORA", {**_TEXT, "layers_to_transform": None, "layers_pattern": None}),
        ("LORA", {"layers_pattern": "layers", "layers_to_transform": [0, 1]}),
        ("LORA", {"layers_pattern": "", "layers_to_transform": None}),
        ("LORA", {"loftq_config": {"loftq_bits": 4}}),
        ("LORA", {"trainable_token_indices": None, "modules_to_save": None}),
        ("ADALORA", {"tinit": 5, "tfinal": 4}),
        ("IA3", {"feedforward_modules": r".*\.down_proj"}),
    ],
    ids=str,
)
def test_fields_that_agree_are_taken(peft: Peft, kind: str, change: Change) -> None:
    assert same(peft.ask(kind, change), peft.trained(kind)[1])
    assert hits(conflicting_fields, peft.config(kind, change)) == []


# ------------------------------------------------------------------------------- AD117, AD118, AD120: silent, and wrong


@pytest.mark.parametrize("remove", [(), ("task_type",)], ids=["null", "absent"])
@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CARTRIDGE"])
def test_prompt_without_task_leaves_the_output_of_the_base(peft: Peft, kind: str, remove: tuple[str, ...]) -> None:
    change = {"task_type": None}

    assert same(peft.ask(kind, change, remove), peft.run(peft.base()))
    assert len(hits(prompt_never_used, peft.config(kind, change, remove))) == 1


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE"])
def test_prompt_with_another_task_is_used(peft: Peft, kind: str) -> None:
    change = {"task_type": "FEATURE_EXTRACTION"}

    assert same(peft.ask(kind, change), peft.trained(kind)[1])
    assert hits(prompt_never_used, peft.config(kind, change)) == []


@pytest.mark.parametrize("value", [0, 0.0, False], ids=str)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("LORA", "lora_alpha"), ("LOHA", "alpha"), ("LOKR", "alpha"), ("GRALORA", "alpha"),
        ("RANDLORA", "randlora_alpha"), ("FOURIERFT", "scaling"), ("WAVEFT", "scaling"), ("LILY", "scaling"),
        ("PEANUT", "scaling"), ("SHADOW", "shadow_alpha"),
    ],
)  # fmt: skip
def test_scaling_of_zero_leaves_the_output_of_the_base(peft: Peft, kind: str, name: str, value: Any) -> None:
    assert same(peft.ask(kind, {name: value}), peft.run(peft.base()))
    assert len(hits(scaling_zero, peft.config(kind, {name: value}))) == 1


@pytest.mark.parametrize(
    ("change", "nothing"),
    [
        ({"lora_alpha": 0, "alpha_pattern": {"absent": 0}}, True),
        ({"lora_alpha": 0, "alpha_pattern": {"q_proj": 8}}, False),
        ({"alpha_pattern": {"q_proj": 0}}, False),
    ],
    ids=str,
)
def test_pattern_may_lift_the_zero(peft: Peft, change: Change, nothing: bool) -> None:
    assert same(peft.ask("LORA", change), peft.run(peft.base())) == nothing
    assert bool(hits(scaling_zero, peft.config("LORA", change))) == nothing


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("LORA", "use_rslora"), ("LORA", "use_dora"), ("LOKR", "decompose_both"), ("OFT", "coft"), ("OFT", "block_share"),
        ("HRA", "apply_GS"), ("WAVEFT", "proportional_parameters"), ("PVERA", "sample_at_inference"),
        ("PSOFT", "use_cayley_neumann"), ("DEFT", "para"), ("ADALORA", "use_dora"),
    ],
)  # fmt: skip
def test_text_false_switches_on_what_was_off(peft: Peft, kind: str, name: str) -> None:
    trained, healthy = peft.trained(kind, {"r": 1} if kind == "LOKR" else None)
    raw = {**json.loads((trained / "adapter_config.json").read_text("utf-8")), name: "false"}

    assert not same(peft.load(raw, trained), healthy)
    assert len(hits(truthy_string, raw)) == 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("OFT", "use_cayley_neumann"), ("WAVEFT", "use_idwt"), ("PSOFT", "psoft_orth"), ("SHADOW", "share_embeddings"), ("VERA", "save_projection"),
        ("PVERA", "save_projection"),
    ],
)  # fmt: skip
def test_text_false_leaves_on_what_training_had_switched_off(peft: Peft, kind: str, name: str) -> None:
    trained, healthy = peft.trained(kind, {name: False})
    raw = {**json.loads((trained / "adapter_config.json").read_text("utf-8")), name: "False"}

    assert not same(peft.load(raw, trained), healthy)
    assert len(hits(truthy_string, raw)) == 1


def test_text_false_makes_places_for_a_bias_that_no_file_fills(peft: Peft) -> None:
    import peft as library

    raw = peft.config("LORA", {"lora_bias": "false"})
    model = library.get_peft_model(peft.base(), library.PeftConfig.from_peft_type(**raw))

    assert any(name.endswith("lora_B.default.bias") for name, _ in model.named_parameters())
    assert len(hits(truthy_string, raw)) == 1


def test_text_true_is_as_good_as_true(peft: Peft) -> None:
    trained, healthy = peft.trained("LORA", {"use_rslora": True})
    raw = {**json.loads((trained / "adapter_config.json").read_text("utf-8")), "use_rslora": "true"}

    assert same(peft.load(raw, trained), healthy)
    assert hits(truthy_string, raw) == []
