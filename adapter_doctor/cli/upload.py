"""`adapter-doctor upload`: examine a folder, show what would be sent, and send it if no error fired."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from adapter_doctor.cli.output import Progress, say, usage_error, write_report
from adapter_doctor.cli.settled import settled
from adapter_doctor.errors import DoctorError
from adapter_doctor.render.visible import visible


def upload(
    folder: Annotated[Path, typer.Argument(help="The adapter's folder.")],
    repo_id: Annotated[str, typer.Argument(help="The repository on the Hub, such as me/my-lora.")],
    base: Annotated[str | None, typer.Option(help="The base to examine on; else the one the adapter names.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Examine and show; send nothing.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
    private: Annotated[bool | None, typer.Option("--private", help="Make a new repository private.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to send to; made if it is not there.")] = None,
    commit_message: Annotated[str | None, typer.Option(help="The commit's first line.")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Send training files of this name too. Repeatable.")] = None,
    fix_card: Annotated[bool, typer.Option("--fix-card", help="Write what the card lacks and is known.")] = False,
    license_name: Annotated[str | None, typer.Option("--license", help="The licence, for --fix-card.")] = None,
    load: Annotated[str | None, typer.Option(help="How far to go: skeleton (if not said), full or no.")] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="Only rules whose code begins so; compatible is then not said. Repeatable.")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Not rules whose code begins so. Repeatable.")] = None,
    fail_on: Annotated[str | None, typer.Option(help="Refuse on: error (if not said) or warning.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings; else [tool.adapter-doctor] of pyproject.toml.")] = None,
    token: Annotated[str | None, typer.Option(help="Hub token; else the one `hf auth login` saved.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Examine with what is on this disk.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every finding in full.")] = False,
) -> None:
    """Upload FOLDER to REPO_ID if the adapter works on its base and nothing in it must stay here.

    Training files are left out. Exit codes are those of `check`; 3 also where the Hub does not take it.
    """
    from adapter_doctor.publish import gate, hub

    progress = Progress()
    try:
        own = settled(str(folder), config, load, fail_on, select, ignore)
        if license_name and not fix_card:
            raise DoctorError("--license is for --fix-card", "add --fix-card")
        if fix_card and folder.is_dir():
            _fix_card(folder, license_name, write=not dry_run)
        plan = gate.examine(
            folder, repo_id, base=base, include=include or (), fail_on=own.fail_on, load=own.load,  # type: ignore[arg-type]
            select=own.select, ignore=own.ignore, token=token, offline=offline, progress=progress,
        )  # fmt: skip
    except DoctorError as error:
        progress.clear()
        usage_error(error)
    progress.clear()
    write_report(plan.report, "text", None, verbose)
    say("\n" + _listing(plan, dry_run=dry_run))
    if plan.exit_code or dry_run:
        raise typer.Exit(plan.exit_code)
    try:
        sent = gate.send(plan, commit_message, token=token, private=private, revision=revision, create_pr=create_pr)
    except hub.UploadError as error:
        typer.echo(f"not uploaded: {visible(error.message)}\n  try: {visible(error.hint)}", err=True)
        raise typer.Exit(3) from None
    say(f"uploaded: {visible(sent.pull_request or sent.commit)}\n")


def _fix_card(folder: Path, license_name: str | None, *, write: bool) -> None:
    from adapter_doctor.publish import gate
    from adapter_doctor.publish.card import read_card

    if license_name is None and sys.stdin.isatty() and not read_card(folder).names("license"):
        license_name = typer.prompt("The adapter's licence, such as apache-2.0 (empty to leave it open)", "", err=True)
    added = gate.fix_card(folder, license_name or None, write=write)
    if added:
        said = "written into" if write else "would be written into"
        typer.echo(f"{said} README.md: {visible(', '.join(f'{k}: {v}' for k, v in added.items()))}", err=True)


def _listing(plan: object, *, dry_run: bool) -> str:
    """What is sent and what stays here, with sizes."""
    from adapter_doctor.publish.gate import Plan

    assert isinstance(plan, Plan)
    files, left_out = plan.contents.files, plan.contents.left_out
    if plan.exit_code == 1:
        head = f"refused: nothing is sent to {plan.repo}; without the findings above, it would be"
    elif plan.exit_code:
        head = f"refused: nothing is sent to {plan.repo}, for it could not be told; --ignore CODE takes a rule's place"
    else:
        head = f"{'would be' if dry_run else 'to be'} sent to {plan.repo}"
    wide = max((len(visible(name)) for name in files), default=0)
    lines = [f"{head}: {len(files)} files, {_size(sum(files.values()))}"]
    lines += [f"    {visible(name):<{min(wide, 56)}}  {_size(size)}" for name, size in files.items()]
    if left_out:
        lines.append(f"left out: {len(left_out)} files; --include NAME sends one")
        lines += [f"    {visible(name)}: {what}" for name, what in list(left_out.items())[:10]]
        lines += [f"    … and {len(left_out) - 10} more"] if len(left_out) > 10 else []
    return "\n".join(lines) + "\n"


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
