"""AD111: task type mismatch."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor import knowledge
from adapter_doctor.facts import AdapterConfig, BaseConfig
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.rules import rule
from adapter_doctor.rules.config._values import CONFIG

# Heads that serve a task beside the one of its own name: PEFT has no task types for pictures and speech.
_SERVED_BY = {
    "CAUSAL_LM": ("IMAGE_TEXT", "SPEECH"),
    "SEQ_2_SEQ_LM": ("IMAGE_TEXT", "SPEECH"),
    "SEQ_CLS": ("IMAGE_CLS", "SPEECH"),
    "TOKEN_CLS": (),
    "QUESTION_ANS": (),
}
_HEADS = {
    "CAUSAL_LM": ("ForCausalLM", "LMHeadModel", "WithLMHead", "DoubleHeadsModel"),
    "SEQ_2_SEQ_LM": ("ForConditionalGeneration", "MTModel", "EncoderDecoderModel", "ForSpeechSeq2Seq"),
    "SEQ_CLS": ("ForSequenceClassification", "ForImageClassification", "ForAudioClassification", "RewardModel"),
    "TOKEN_CLS": ("ForTokenClassification", "ForCTC", "ForAudioFrameClassification"),
    "QUESTION_ANS": ("ForQuestionAnswering",),
}
_TEXT_TASKS = frozenset({"CAUSAL_LM", "SEQ_2_SEQ_LM", "MASKED_LM"})


@rule("AD111", Severity.WARNING)
def task_type_mismatch(config: AdapterConfig, base: BaseConfig) -> Iterator[Hit]:
    """The adapter was made for a task that this kind of base has no head for.

    ## Why it matters
    PEFT wraps the base for the task of the config and compares it with nothing. Generation without a language-model
    head fails, and a head that the task needs is missing or newly made at each load.

    ## Common causes
    `task_type` was copied from an example for another family (SEQ_2_SEQ_LM for a decoder, CAUSAL_LM for BERT), or the
    adapter belongs to another base.

    ## Fix
    Set `task_type` to the task that the adapter was trained for; use a base whose family has a head for it.
    """
    task, architecture = config.task_type, knowledge.architecture(base.model_type)
    if task not in _HEADS or architecture is None or base.needs_remote_code:
        return
    if not _TEXT_TASKS & architecture.classes.keys():
        return  # of speech and vision models not every head is in the tables
    if any(name.endswith(_HEADS[task]) for name in base.architectures):
        return
    if task == "CAUSAL_LM" and base.text is not base.raw:
        return  # a language model inside one that also sees or hears
    named = base.architectures[0] if base.architectures else "no class"
    if task in architecture.classes:
        encoder = "MASKED_LM" in architecture.classes and "SEQ_2_SEQ_LM" not in architecture.classes
        if task == "CAUSAL_LM" and encoder and base.architectures and not base.raw.get("is_decoder"):
            yield Hit(
                f"`task_type` is 'CAUSAL_LM', and the base is an encoder ({named}), which reads text and writes none",
                where=CONFIG,
            )
    elif not any(one in architecture.classes for one in _SERVED_BY[task]):
        able = [one for one in knowledge.task_types() if one in architecture.classes]
        yield Hit(
            f"`task_type` is {task!r}, and transformers has no head for it on {base.model_type!r} ({named});"
            f" expected one of {', '.join(able) or 'none'}",
            where=CONFIG,
        )
