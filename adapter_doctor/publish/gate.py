"""The gate before an upload: examine a folder as an adapter and as something to publish, then send it or refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress as suppress_errors
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adapter_doctor.doctor import check
from adapter_doctor.engine import judge
from adapter_doctor.errors import DoctorError
from adapter_doctor.facts import (
    AdapterConfig,
    BaseAccess,
    BaseConfig,
    Facts,
    Missing,
    UploadContents,
)
from adapter_doctor.findings import Severity
from adapter_doctor.formats.base_names import is_local_path
from adapter_doctor.gather.adapter import gather_adapter
from adapter_doctor.gather.base import gather_base
from adapter_doctor.loading.stage import Load
from adapter_doctor.opening import open_source
from adapter_doctor.publish import hub
from adapter_doctor.publish.card import complete, completion, read_card
from adapter_doctor.publish.contents import contents
from adapter_doctor.publish.secrets import MOST_BYTES, secrets
from adapter_doctor.report import AdapterError, Report, extended
from adapter_doctor.rules import OWN_COMMANDS, rules_of
from adapter_doctor.selection import chosen_rules, passed_over
from adapter_doctor.sources.disk import DiskSource
from adapter_doctor.suppression import suppress


@dataclass(frozen=True)
class Plan:
    """A folder that was examined for an upload: the report, and the files that would be sent."""

    folder: Path
    repo: str
    report: Report
    contents: UploadContents
    fail_on: Literal["error", "warning"] = "error"

    @property
    def exit_code(self) -> int:
        """0 where it may be sent, 1 where a finding forbids it, 3 where it could not be told."""
        warned = any(one.rule.severity >= Severity.WARNING for one in self.report.findings)
        return 1 if self.report.exit_code == 0 and warned and self.fail_on == "warning" else self.report.exit_code

    @property
    def summary(self) -> str:
        """The report's result in one line, for the commit's description."""
        from adapter_doctor import __version__

        report, landed = self.report, self.report.landed
        proof = f", {landed['landed']} of {landed['in_file']} tensors landed" if landed else ""
        with_what = f" with peft {report.environment['peft']}" if report.environment.get("peft") and landed else ""
        return f"adapter-doctor {__version__}: {report.summary} on {report.base.get('reference')}{proof}{with_what}"


def upload(
    folder: str | Path,
    repo: str,
    *,
    base: str | Path | None = None,
    dry_run: bool = False,
    create_pr: bool = False,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    include: Iterable[str] = (),
    fail_on: Literal["error", "warning"] = "error",
    load: Load = "skeleton",
    select: Iterable[str] = (),
    ignore: Iterable[str] | Mapping[str, str] = (),
    token: str | None = None,
    offline: bool = False,
    progress: Callable[[str], None] | None = None,
) -> tuple[Plan, hub.Sent | None]:
    """Upload an adapter folder through huggingface_hub, if it works on its base and may be published.

    ``base`` is the base to examine it on, if not the one that its config names. ``include`` are patterns of names of
    training files to send, which are otherwise left out. Nothing is sent with ``dry_run``.

    Raises:
        DoctorError: the folder or the repository's name cannot be one.
        AdapterError: it was refused; ``.report`` says why.
        UploadError: the Hub did not take it.
    """
    plan = examine(
        Path(folder), repo, base=base, include=include, fail_on=fail_on, load=load, select=select, ignore=ignore,
        token=token, offline=offline, progress=progress,
    )  # fmt: skip
    if plan.exit_code:
        raise AdapterError(plan.report)
    options = {"token": token, "private": private, "revision": revision, "create_pr": create_pr}
    return plan, None if dry_run else send(plan, commit_message, **options)  # type: ignore[arg-type]


def examine(
    folder: Path,
    repo: str,
    *,
    base: str | Path | None = None,
    include: Iterable[str] = (),
    fail_on: Literal["error", "warning"] = "error",
    load: Load = "skeleton",
    select: Iterable[str] = (),
    ignore: Iterable[str] | Mapping[str, str] = (),
    token: str | None = None,
    offline: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Plan:
    """The folder examined for an upload; see :func:`upload`.

    Raises:
        DoctorError: the folder is none, or the repository's name cannot be one.
    """
    if not folder.is_dir():
        hint = f"adapter-doctor upload {repo} {folder}" if Path(repo).is_dir() else "the folder that PEFT saved to"
        raise DoctorError(f"{str(folder)!r} is no folder", hint)
    hub.valid_repo(repo)
    reasons = ignore if isinstance(ignore, Mapping) else dict.fromkeys(ignore, "at your request")
    select = tuple(select)
    own = [one for one in rules_of("upload") if OWN_COMMANDS.get(one.code[2]) == "upload"]
    chosen = chosen_rules(select, reasons, "upload")
    rules = [one for one in own if one in chosen]
    report = check(
        base, folder, load=load, select=select, ignore=reasons, token=token, offline=offline, progress=progress
    )
    (progress or str)("looking for what must not be published")
    facts, notes = _facts(folder, base, include, token, offline)
    outcomes, suppressed = suppress(judge(rules, facts), reasons, frozenset())
    whole = extended(report, (*outcomes, *passed_over(own, rules)), suppressed, notes)
    what = facts.get(UploadContents)
    assert isinstance(what, UploadContents)
    return Plan(folder, repo, whole, what, fail_on)


def _facts(
    folder: Path, base: str | Path | None, include: Iterable[str], token: str | None, offline: bool
) -> tuple[Facts, tuple[str, ...]]:
    facts = gather_adapter(DiskSource(folder, str(folder)), Facts())
    what = contents(folder, include)
    secret = secrets(folder, what.files)
    facts = facts.adding(what, read_card(folder), secret)
    notes = tuple(f"{name} was searched for secrets in its first {MOST_BYTES:,} bytes" for name in secret.unread)
    config = facts.get(AdapterConfig)
    name = config.base_name if isinstance(config, AdapterConfig) else ""
    if base or name:
        with suppress_errors(DoctorError):  # what is wrong with the reference, the check has told
            source, _ = open_source(str(base or name), token=token, offline=offline)
            facts = gather_base(source, facts, weights=False)
    facts = facts.lacking(Missing("there is no base to look at"), BaseConfig)
    if not name or is_local_path(name):
        access: BaseAccess | Missing = Missing("the config names no base on the Hub", waived=True)
    elif offline:
        access = Missing("offline mode is on", waived=True)
    else:
        access = hub.base_access(name)
    return (facts.lacking(access, BaseAccess) if isinstance(access, Missing) else facts.adding(access)), notes


def send(
    plan: Plan,
    commit_message: str | None = None,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> hub.Sent:
    """Send what was planned; its result goes into the commit's description.

    Raises:
        UploadError: the Hub did not take it.
    """
    message = commit_message or "Upload the adapter with adapter-doctor"
    return hub.send(
        plan.folder, plan.repo, plan.contents, message, plan.summary,
        token=token, private=private, revision=revision, create_pr=create_pr,
    )  # fmt: skip


def fix_card(folder: Path, license_name: str | None, *, write: bool = True) -> Mapping[str, object]:
    """Complete the card's metadata with what is known, and say what was added.

    Raises:
        DoctorError: the folder's config or card cannot be read, or the card cannot be written.
    """
    config = gather_adapter(DiskSource(folder, str(folder)), Facts()).get(AdapterConfig)
    if isinstance(config, Missing):
        raise DoctorError(f"the card is not completed: {config.why}")
    added = completion(read_card(folder), config, license_name)
    if added and write:
        complete(folder, added)
    return added
