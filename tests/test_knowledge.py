"""The tables of `adapter_doctor.knowledge` say what PEFT's and transformers' releases are known to do."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import pytest

from adapter_doctor import knowledge

RELEASES = knowledge.releases()


def saved_config(peft_type: str, release: str) -> dict[str, object]:
    fields = knowledge.fields_of(peft_type)
    return {name: None for name, field in fields.items() if field.saved and field.is_in(release)} | {
        "peft_type": peft_type
    }


def test_the_releases_are_in_order_and_end_with_the_newest() -> None:
    assert (RELEASES[0], RELEASES[-1], len(RELEASES)) == ("0.2.0", "0.21.2", 35)
    assert RELEASES.index("0.9.0") < RELEASES.index("0.10.0")


@pytest.mark.parametrize(
    ("field", "first", "last"),
    [
        ("r", "0.2.0", None),
        ("merge_weights", "0.2.0", "0.2.0"),
        ("use_rslora", "0.8.0", None),
        ("use_dora", "0.9.0", None),
        ("exclude_modules", "0.14.0", None),
        ("trainable_token_indices", "0.15.0", None),
        ("target_parameters", "0.17.0", None),
        ("peft_version", "0.18.0", None),
    ],
)
def test_a_field_of_lora_has_the_releases_it_had(field: str, first: str, last: str | None) -> None:
    span = knowledge.fields_of("LORA")[field]
    assert (span.first, span.last) == (first, last)


def test_changed_defaults_are_remembered() -> None:
    assert knowledge.fields_of("LORA")["lora_alpha"].defaults == (("0.2.0", "None"), ("0.4.0", "8"))
    assert knowledge.fields_of("LORA")["lora_alpha"].default == "8"
    assert knowledge.fields_of("LORA")["alpha_pattern"].default == "factory:dict"


def test_fields_are_inherited_across_modules() -> None:
    assert knowledge.fields_of("ADALORA")["use_dora"].first == "0.9.0"
    assert knowledge.fields_of("PROMPT_TUNING")["num_virtual_tokens"].first == "0.2.0"
    assert knowledge.fields_of("LOKR")["rank_pattern"].first == "0.6.0"


@pytest.mark.parametrize(
    ("peft_type", "first", "last"), [("LORA", "0.2.0", None), ("MISS", "0.17.0", None), ("BONE", "0.14.0", "0.18.1")]
)
def test_a_type_has_the_releases_it_had(peft_type: str, first: str, last: str | None) -> None:
    assert knowledge.peft_types()[peft_type] == knowledge.TypeSpan(first, last)


def test_a_type_that_no_release_has_has_no_fields() -> None:
    assert knowledge.fields_of("FINEGATES") == {}
    assert knowledge.written_by({"peft_type": "FINEGATES", "r": 8}) is None


def test_configs_inside_configs_are_known_by_their_class() -> None:
    assert knowledge.subconfig_fields("LoftQConfig")["loftq_bits"].default == "4"


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("0.18.1", "0.18.1"),
        ("0.18.2.dev0@a1b2c3", "0.18.1"),
        ("0.8", "0.7.1"),
        ("1.0", "0.21.2"),
        ("0.1.0", "0.2.0"),
        ("UNKNOWN", "0.21.2"),
    ],
)
def test_any_version_counts_as_a_release(version: str, release: str) -> None:
    assert knowledge.release_at(version) == release


def test_releases_that_do_not_import_beside_transformers_5_are_known() -> None:
    (pair,) = knowledge.import_breaks()
    assert pair.peft == ("0.16.0", "0.17.0", "0.17.1")
    assert pair.transformers == ">=5.0"
    assert "HybridCache" in pair.error


@pytest.mark.parametrize("peft_type", ["LORA", "IA3", "PROMPT_TUNING"])
@pytest.mark.parametrize("release", ["0.6.0", "0.12.0", "0.15.2", "0.21.2"])
def test_a_saved_config_is_dated_by_its_keys(peft_type: str, release: str) -> None:
    span = knowledge.written_by(saved_config(peft_type, release))
    assert span is not None
    oldest, newest = (RELEASES.index(end) for end in span)
    assert oldest <= RELEASES.index(release) <= newest


def test_dating_says_how_far_the_keys_go() -> None:
    assert knowledge.written_by(saved_config("LORA", "0.10.0")) == ("0.10.0", "0.13.2")
    assert knowledge.written_by(saved_config("LORA", "0.18.0")) == ("0.18.0", "0.18.1")


def test_a_key_of_someone_else_does_not_change_the_date() -> None:
    config = saved_config("LORA", "0.10.0")
    assert knowledge.written_by(config | {"unsloth_fixed": True}) == ("0.10.0", "0.13.2")


def test_a_config_written_by_hand_is_not_dated() -> None:
    assert knowledge.written_by({"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}) is None


def test_the_newest_key_decides_which_releases_read_a_config() -> None:
    assert knowledge.oldest_release_reading({"peft_type": "LORA", "r": 8}) == "0.2.0"
    assert knowledge.oldest_release_reading({"peft_type": "LORA", "r": 8, "use_dora": True}) == "0.9.0"
    assert knowledge.oldest_release_reading({"peft_type": "LORA", "merge_weights": False, "use_dora": True}) is None
    assert knowledge.oldest_release_reading({"peft_type": "LORA", "use_doora": True}) is None


def test_a_key_that_a_release_lacks_comes_with_what_others_know_of_it() -> None:
    config = {"peft_type": "LORA", "r": 8, "use_dora": True, "merge_weights": False, "use_doora": True}
    unknown = knowledge.unknown_fields(config, "0.8.2")
    assert {key: field and (field.first, field.last) for key, field in unknown.items()} == {
        "use_dora": ("0.9.0", None),
        "merge_weights": ("0.2.0", "0.2.0"),
        "use_doora": None,
    }


def test_nothing_is_said_about_the_fields_of_a_type_that_a_version_lacks() -> None:
    assert knowledge.unknown_fields(saved_config("BONE", "0.18.1"), "0.21.2") == {}
    assert knowledge.unknown_fields({"peft_type": "FINEGATES", "r": 8}, "0.21.2") == {}


def test_default_targets_differ_between_types() -> None:
    assert knowledge.default_targets("LORA", "llama") == ["q_proj", "v_proj"]
    assert knowledge.default_targets("BOFT", "gpt2") == ["c_attn"]
    assert knowledge.default_targets("FOURIERFT", "gpt2") == ["mlp.c_proj"]
    assert knowledge.default_targets("IA3", "llama") == ["k_proj", "v_proj", "down_proj"]
    assert knowledge.default_feedforward("llama") == ["down_proj"]


def test_default_targets_can_be_a_pattern_or_a_shorthand_or_absent() -> None:
    assert isinstance(knowledge.default_targets("LORA", "gemma4"), str)
    assert knowledge.default_targets("OSF", "no-such-type") == "all-linear"
    assert knowledge.default_targets("LORA", "no-such-type") is None
    assert knowledge.default_targets("PROMPT_TUNING", "llama") is None


def test_the_heads_that_a_task_saves_are_known() -> None:
    assert knowledge.modules_saved_for("SEQ_CLS") == ("classifier", "score")
    assert knowledge.modules_saved_for("TOKEN_CLS") == ("classifier", "score")
    assert knowledge.modules_saved_for("QUESTION_ANS") == ("qa_outputs",)
    assert knowledge.modules_saved_for("CAUSAL_LM") == ()
    assert "FEATURE_EXTRACTION" in knowledge.task_types()


def test_the_names_peft_goes_by_are_known() -> None:
    assert knowledge.parameter_prefix("ADALORA") == "lora_"
    assert knowledge.parameter_prefix("FINEGATES") is None
    assert knowledge.embedding_layers() == ("embed_tokens", "lm_head")
    assert set(knowledge.classifier_heads()) == {"score", "classifier"}


def test_an_architecture_has_its_classes() -> None:
    llama = knowledge.architecture("llama")
    assert llama is not None
    assert llama.classes["CAUSAL_LM"] == "LlamaForCausalLM"
    assert (llama.converted, llama.conv1d) == (False, False)
    assert (llama.prefix_for("CAUSAL_LM"), llama.prefix_for("QUESTION_ANS")) == ("model", "transformer")


def test_an_architecture_says_when_its_linear_layers_are_transposed() -> None:
    gpt2 = knowledge.architecture("gpt2")
    assert gpt2 is not None
    assert (gpt2.prefix, gpt2.conv1d) == ("transformer", True)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "qwen2_vl", "gemma3", "siglip_vision_model", "siglip"])
def test_an_architecture_says_when_its_checkpoints_are_converted(model_type: str) -> None:
    found = knowledge.architecture(model_type)
    assert found is not None
    assert found.converted


def test_a_type_that_transformers_lacks_has_no_architecture() -> None:
    assert knowledge.architecture("chatglm") is None
    assert knowledge.conversions("chatglm") == ()


def test_conversions_tell_how_experts_are_merged() -> None:
    gate_up = knowledge.Conversion(
        "convert",
        (".experts.*.w1.weight", ".experts.*.w3.weight"),
        (".experts.gate_up_proj",),
        ("MergeModulelist(dim=0)", "Concatenate(dim=1)"),
    )
    assert gate_up in knowledge.conversions("mixtral")


def test_a_conversion_is_found_under_another_name() -> None:
    assert knowledge.conversions("qwen3_moe") == knowledge.conversions("qwen2_moe") != ()
    assert knowledge.conversions("Gemma3Model") == knowledge.conversions("LlavaModel") != ()


def test_asking_imports_neither_peft_nor_transformers() -> None:
    code = (
        "import sys; from adapter_doctor import knowledge as k;"
        "k.written_by({'peft_type': 'LORA'}), k.architecture('llama'), k.default_targets('LORA', 'llama');"
        "sys.exit(bool({'peft', 'transformers', 'torch'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.filterwarnings("default")
def test_the_table_agrees_with_the_installed_peft() -> None:
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    assert peft.__version__ in RELEASES, "add it to RELEASES in scripts/build_knowledge.py and run that"
    in_table = {
        peft_type: {name for name, field in knowledge.fields_of(peft_type).items() if field.is_in(peft.__version__)}
        for peft_type in knowledge.peft_types()
    }
    installed = {
        str(peft_type.value): {field.name for field in dataclasses.fields(config_class)}
        for peft_type, config_class in PEFT_TYPE_TO_CONFIG_MAPPING.items()
    }
    assert {peft_type: names for peft_type, names in in_table.items() if names} == installed
    assert set(knowledge.task_types()) == {task.value for task in peft.TaskType}


@pytest.mark.filterwarnings("default")
def test_saved_is_what_the_installed_peft_writes() -> None:
    import peft

    written = peft.LoraConfig(target_modules=["q_proj"]).to_dict().keys()
    fields = {name: field for name, field in knowledge.fields_of("LORA").items() if field.is_in(peft.__version__)}
    assert {name for name, field in fields.items() if field.saved} == set(written)
    assert set(fields) - set(written) == {"runtime_config"}
    assert fields.keys() <= inspect.signature(peft.LoraConfig).parameters.keys()


def test_writer_of_a_config_is_what_it_records_or_what_its_keys_tell() -> None:
    config = {"peft_type": "LORA", **dict.fromkeys(knowledge._saved_keys("LORA")["0.10.0"])}

    assert knowledge.origin({**config, "peft_type": "LORA"})[0] == " to ".join(
        dict.fromkeys(knowledge.written_by({**config, "peft_type": "LORA"}) or ())
    )
    assert knowledge.origin({**config, "peft_type": "LORA", "peft_version": "0.19.1"})[0] == "0.19.1"
    assert knowledge.origin({"peft_type": "LORA", "peft_version": "x" * 99}) == (None, "0.18.0")
