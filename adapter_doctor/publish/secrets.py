"""Look for tokens and keys in text files, with the patterns of detect-secrets and those of model hubs besides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from adapter_doctor.errors import DoctorError
from adapter_doctor.facts import Secret, Secrets

MOST_BYTES = 1_000_000
"""Bytes of a file that are searched. A larger text file, such as a tokenizer's, is searched to here and named."""
_LONGEST_LINE = 20_000

# Those of detect-secrets that know their tokens by form. Its guesses by entropy, by words such as "password" and by short
# prefixes fire on hashes, vocabularies and configs, and an upload is not refused for a guess.
_DETECTORS = (
    "AWSKeyDetector", "AzureStorageKeyDetector", "BasicAuthDetector", "DiscordBotTokenDetector", "GitHubTokenDetector",
    "GitLabTokenDetector", "JwtTokenDetector", "MailchimpDetector", "NpmDetector", "OpenAIDetector",
    "PrivateKeyDetector", "PypiTokenDetector", "SendGridDetector", "SlackDetector", "SquareOAuthDetector",
    "StripeDetector", "TelegramBotTokenDetector",
)  # fmt: skip
# Not among detect-secrets' as of 1.5.
_OURS = {
    "Hugging Face token": re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{30,40}\b"),
    "Anthropic key": re.compile(r"\bsk-ant-[A-Za-z0-9_-]{20,200}"),
    "OpenAI Token": re.compile(r"\bsk-(?:proj|svcacct)-[A-Za-z0-9_-]{40,200}"),
    "Weights & Biases key": re.compile(r"(?i)wandb[^\n]{0,40}?key[^\n0-9a-f]{1,10}([0-9a-f]{40})\b"),
}


def secrets(folder: Path, names: Iterable[str]) -> Secrets:
    """The secrets in these files of a folder. What may be shown of one is its beginning and its length.

    Raises:
        DoctorError: detect-secrets is not installed.
    """
    found: dict[tuple[str, int, str], Secret] = {}
    unread: list[str] = []
    for name in names:
        try:
            with (folder / name).open("rb") as file:
                start = file.read(MOST_BYTES + 1)
        except OSError:
            unread.append(name)
            continue
        encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"  # as PowerShell's `>` writes
        if encoding == "utf-8" and b"\0" in start[:8192]:
            continue
        if len(start) > MOST_BYTES:
            unread.append(name)
        for number, line in enumerate(start[:MOST_BYTES].decode(encoding, "replace").splitlines(), 1):
            for at in range(0, len(line), _LONGEST_LINE):
                for kind, value in _in_line(line[max(0, at - 200) : at + _LONGEST_LINE]):
                    found.setdefault((name, number, value), Secret(name, number, kind, _masked(value)))
    return Secrets(tuple(found.values()), tuple(unread))


def _in_line(line: str) -> Iterator[tuple[str, str]]:
    if len(line) < 8:
        return
    for kind, pattern in _OURS.items():
        for match in pattern.finditer(line):
            yield kind, match[match.lastindex or 0]
    for detector in _detectors():
        for value in detector.analyze_string(line):
            if isinstance(value, str):
                yield detector.secret_type, value


@cache
def _detectors() -> tuple[Any, ...]:
    try:
        from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    except ImportError:
        raise DoctorError("an upload is searched for secrets with detect-secrets, which is not installed",
                          "pip install 'adapter-doctor[upload]'") from None  # fmt: skip
    kinds = get_mapping_from_secret_type_to_class().values()
    return tuple(kind() for kind in sorted(kinds, key=lambda one: str(one.__name__)) if kind.__name__ in _DETECTORS)


def _masked(value: str) -> str:
    shown = value[:4] if len(value) >= 16 else ""
    return f"{shown}… ({len(value)} characters)"
