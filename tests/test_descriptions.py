"""A failure told in a person's own words: known wordings are, and where they mean something else nothing is said."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path

import pytest

import adapter_doctor
from adapter_doctor import explain

ROWS = tomllib.loads((Path(adapter_doctor.__file__).parent / "texts" / "descriptions.toml").read_text())["description"]


@pytest.mark.parametrize(("code", "text"), [(row["code"], text) for row in ROWS for text in row["examples"]])
def test_a_known_wording_is_told_its_cause_alone(code: str, text: str) -> None:
    report = explain(text)

    assert [finding.rule.code for finding in report.findings] == [code]
    assert report.findings[0].hits[0].message.startswith("as described: ")
    assert "{" not in report.findings[0].hits[0].message + (report.findings[0].hits[0].fix or "")


@pytest.mark.parametrize(("code", "text"), [
    ("AD922", "Second adapter with different modules_to_save\nfails in load_adapter"),
    ("AD216", "model.layers.3.mlp.up_proj vs base_model.model.model.layers.3.mlp.up_proj, why?"),
    ("AD216", "Every tensor name starts with `module.` since I trained with DDP"),
    ("AD401", "My LoRA config gives an unexpected keyword in the server"),
    ("AD006", "adapter_config.json lies next to the base model folder's weights"),
])  # fmt: skip
def test_other_words_for_the_same_are_known_too(code: str, text: str) -> None:
    assert [finding.rule.code for finding in explain(text).findings] == [code]


@pytest.mark.parametrize("text", [
    "I trained a LoRA with modules_to_save and it works", "X-LoRA is a mixture of experts with keys and queries",
    "base_model.model.lm_head vs model.embed_tokens", "the keys start with base_model.model. as they should",
    "the input is flattened before the linear layer", "what does it cost to double the batch", "rank 0 is done",
    "load_best_model_at_end=True", "the best checkpoint was loaded", "the adapter was trained on the base model",
    "the engine loads my model as a full model", "print() got an unexpected keyword argument 'foo'", "flattened tensors",
    "is the adapter loaded on top of the base model", "put adapter_config.json beside the weights", "strict=False?",
    "LoRA reduces the parameters; the image is flattened", "load_best_model_at_end=True in my notebook, trained fine",
    "with load_best_model_at_end=True the eval loss is not decreasing", "any other modules_to_save I need?",
    "adapter fails to load: could not find the base model path", "the adapter was loaded, base model path prints None",
    "LoRA for BERT: tensor names begin with encoder.layer.0", "keys start with module names",
    "my tensors are flattened outputs, loss is a mismatch", "peft got an unexpected keyword argument 'strict'",
])  # fmt: skip
def test_words_that_mean_something_else_are_told_nothing(text: str) -> None:
    report = explain(text)

    assert [hit.message for one in report.findings for hit in one.hits if hit.message.startswith("as described")] == []


def test_a_message_counts_before_the_words_around_it_and_a_log_has_no_words() -> None:
    told = ROWS[0]["examples"][0]

    with_message = explain(
        told + "\nsafetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge"
    )
    in_a_log = explain("\n".join([*(f"step {number} loss 0.{number}" for number in range(200)), told]))

    assert [finding.rule.code for finding in with_message.findings] == ["AD202"]
    assert in_a_log.findings == ()


@pytest.mark.parametrize(
    "start", ["base_model.model.", "adapter ", "x-lora ", "flattened saved ", "keys are ", "a.", "loads my "]
)
def test_no_wording_takes_long_to_be_looked_for(start: str) -> None:
    text = (start * 600)[:599]
    begun = time.process_time()

    explain(text)

    assert time.process_time() - begun < 1
