"""AD310: head not saved."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor.facts import AdapterConfig, AdapterTensors, BaseConfig
from adapter_doctor.findings import Hit, Severity
from adapter_doctor.formats.adapter_keys import parse
from adapter_doctor.rules import rule

_TASKS = {"SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification",
          "QUESTION_ANS": "ForQuestionAnswering"}  # fmt: skip


@rule("AD310", Severity.WARNING)
def head_not_saved(config: AdapterConfig, tensors: AdapterTensors, base: BaseConfig) -> Iterator[Hit]:
    """The task's head is neither in the file nor in the base.

    ## Why it matters
    transformers puts a random head on the base at each load, so the answers are random although every tensor lands.

    ## Common causes
    A head whose name PEFT does not know (it saves `classifier`, `score` and `qa_outputs` by itself).

    ## Fix
    Name the head in `modules_to_save` and train again; a head that was not saved is lost.
    """
    suffix = _TASKS.get(config.task_type)
    if suffix is None or any(name.endswith(suffix) for name in base.architectures):
        return
    saved = [name for name in tensors if parse(name) is None]
    if not saved and len(tensors):
        yield Hit(
            f"task {config.task_type} needs a head, and none of the {len(tensors)} tensors is one", where=tensors.file
        )
