"""A folder's model card: read its metadata, and complete them with what is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapter_doctor.errors import DoctorError, os_error_sentence
from adapter_doctor.facts import AdapterConfig, ModelCard
from adapter_doctor.formats.base_names import is_local_path

FILE = "README.md"
MOST_BYTES = 1_000_000

# The Hub's task for each task type of PEFT (peft/utils/peft_types.py, huggingface.js's tasks).
_TASKS = {
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": "text2text-generation",
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "feature-extraction",
}


def read_card(folder: Path) -> ModelCard:
    """The card; what keeps its metadata from being read is told in ``trouble``."""
    path = folder / FILE
    if not path.is_file():
        return ModelCard(present=False)
    try:
        if path.stat().st_size > MOST_BYTES:
            return ModelCard(
                True, {}, f"the file is {path.stat().st_size:,} bytes, more than the {MOST_BYTES:,} that are read"
            )
        text = path.read_text("utf-8")
    except OSError as error:
        return ModelCard(True, {}, os_error_sentence(error))
    except UnicodeDecodeError:
        return ModelCard(True, {}, "the file is not UTF-8")
    lines = text.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return ModelCard(present=True)
    end = next((at for at, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if end is None:
        return ModelCard(True, {}, "the block that begins with `---` does not end with one")
    import yaml

    try:
        block = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 2}" if mark is not None else ""
        return ModelCard(True, {}, f"it is no YAML{where}: {getattr(error, 'problem', '') or 'it cannot be parsed'}")
    except (RecursionError, ValueError):
        return ModelCard(True, {}, "its YAML is nested too deeply, or holds a value that cannot be")
    if block is None:
        return ModelCard(present=True)
    return ModelCard(True, block) if isinstance(block, dict) else ModelCard(True, {}, "it is no mapping")


def completion(card: ModelCard, config: AdapterConfig, license_name: str | None = None) -> dict[str, Any]:
    """The metadata that are known and that the card lacks. A licence is only what the user says."""
    base = config.base_name
    known: dict[str, Any] = {}
    if base and not is_local_path(base):
        known |= {"base_model": base, "base_model_relation": "adapter"}
    known["library_name"] = "peft"
    if license_name:
        known["license"] = license_name
    if task := _TASKS.get(config.task_type):
        known["pipeline_tag"] = task
    if config.peft_type:
        known["tags"] = ["peft", config.peft_type.lower()]
    return {key: value for key, value in known.items() if not card.names(key)}


def complete(folder: Path, added: Mapping[str, Any]) -> None:
    """Write metadata into the card through huggingface_hub, which keeps what is there; begin one where there is none.

    Raises:
        DoctorError: the card cannot be read or written.
    """
    from huggingface_hub import ModelCard as HubCard

    path = folder / FILE
    trouble = read_card(folder).trouble
    if trouble:
        raise DoctorError(f"the metadata of {path} cannot be read, so they are left as they are: {trouble}")
    try:
        text = path.read_text("utf-8") if path.is_file() else f"\n# {folder.resolve().name}\n"
        card = HubCard(text, ignore_metadata_errors=True)
        for key, value in added.items():
            setattr(card.data, key, value)
        card.save(path)
    except (OSError, ValueError) as error:
        why = os_error_sentence(error) if isinstance(error, OSError) else str(error)
        raise DoctorError(f"the card {path} cannot be written: {why}") from None
