"""The gate before an upload: what is sent, what is refused, and that a failed upload leaves nothing half-committed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import patient
import pytest
from hub_server import Fault, in_use
from hub_writes import WritableHub
from typer.testing import CliRunner, Result

from adapter_doctor import AdapterError, DoctorError, upload
from adapter_doctor.cli import application
from adapter_doctor.facts import AdapterConfig
from adapter_doctor.publish.card import complete, completion, read_card
from adapter_doctor.publish.contents import contents
from adapter_doctor.publish.secrets import secrets

TOKEN = "hf_" + "writer" * 6
CARD = (
    f"---\nbase_model: {patient.BASE}\nlibrary_name: peft\nlicense: apache-2.0\npipeline_tag: text-generation\n"
    "tags: [lora]\n---\n\n# An adapter\n"
)
SENT = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
STRAYS = (
    "optimizer.pt",
    "rng_state_0.pth",
    "training_args.bin",
    "runs/Nov22/events.out.tfevents.1",
    "checkpoint-5/x.txt",
    ".env",
)


# huggingface_hub's own, of httpx's, where a file is sent in one part.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    """A Hub with the patient's base on it, which a token may write to, and no waiting between attempts."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with WritableHub() as server, in_use(server.url, tmp_path / "home"):
        server.tokens, server.writers = {TOKEN, "hf_reader_reader_reader"}, {TOKEN}
        base, _ = patient.write(tmp_path)
        server.add(patient.BASE, base)
        yield server


@pytest.fixture
def adapter(hub: WritableHub, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    (folder / "README.md").write_text(CARD)
    edit(folder, revision=None)
    for name in STRAYS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def edit(adapter: Path, **changes: Any) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **changes}))


def run(adapter: Path, *more: object, repo: str = "me/my-lora", token: str = TOKEN) -> Result:
    arguments = ["upload", adapter, repo, "--load", "no", "--token", token, *more]
    return CliRunner().invoke(application(), [str(one) for one in arguments])


# ------------------------------------------------------------------------------------------------------ it is sent


def test_sound_folder_ends_in_one_commit_with_exactly_its_files(hub: WritableHub, adapter: Path) -> None:
    result = run(adapter, "--commit-message", "First version")

    assert result.exit_code == 0, result.output
    ((header, names),) = hub.commits_made
    assert sorted(names) == SENT
    assert sorted(hub.files("me/my-lora")) == [".gitattributes", *SENT]
    assert all(hub.files("me/my-lora")[name] == (adapter / name).read_bytes() for name in SENT)
    assert header["summary"] == "First version"
    assert header["description"].startswith("adapter-doctor 0.1.0: compatible on example/tiny-llama")
    assert f"uploaded: {hub.url}/me/my-lora/commit/" in result.stdout


def test_what_is_sent_and_what_stays_is_shown_with_sizes(hub: WritableHub, adapter: Path) -> None:
    shown = run(adapter, "--dry-run").stdout

    assert "would be sent to me/my-lora: 3 files, " in shown
    assert f"left out: {len(STRAYS)} files" in shown
    assert all(name in shown for name in (*SENT, *STRAYS))


def test_dry_run_sends_nothing(hub: WritableHub, adapter: Path) -> None:
    assert run(adapter, "--dry-run").exit_code == 0
    assert hub.written() == []


def test_folder_is_examined_offline_where_that_is_wanted(hub: WritableHub, adapter: Path) -> None:
    base = adapter.parent / "base"
    hub.forget()

    assert run(adapter, "--dry-run", "--offline", "--base", base).exit_code == 0
    assert hub.seen == []


def test_training_files_are_sent_only_when_they_are_asked_for(hub: WritableHub, adapter: Path) -> None:
    result = run(adapter, "--include", "optimizer.pt")

    assert result.exit_code == 0
    assert "AD605" in result.stdout
    assert sorted(hub.commits_made[0][1]) == [*SENT, "optimizer.pt"]
    assert run(adapter, "--include", "optimizer.pt", "--fail-on", "warning").exit_code == 1


def test_pull_request_branch_and_private_repository(hub: WritableHub, adapter: Path) -> None:
    first = run(adapter, "--private", "--create-pr")
    assert (first.exit_code, "/discussions/1" in first.stdout) == (0, True), first.output
    assert sorted(hub.files("me/my-lora")) == [".gitattributes"]
    assert hub._repos["me/my-lora"].private

    assert run(adapter, "--revision", "v2").exit_code == 0
    assert sorted(hub.files("me/my-lora", "v2")) == [".gitattributes", *SENT]
    assert sorted(hub.files("me/my-lora")) == [".gitattributes"]


def test_second_upload_of_the_same_adds_to_what_is_there(hub: WritableHub, adapter: Path) -> None:
    run(adapter)
    (adapter / "README.md").write_text(CARD + "More.\n")

    assert run(adapter).exit_code == 0
    assert hub.files("me/my-lora")["README.md"].endswith(b"More.\n")


def test_names_that_are_patterns_are_sent_as_they_are(hub: WritableHub, adapter: Path) -> None:
    (adapter / "loss [1].png").write_bytes(b"\x89PNG")
    (adapter / "*").write_bytes(b"\x89PNG")
    (adapter / "?env").write_bytes(b"\x89PNG")
    run(adapter)

    assert sorted(hub.commits_made[0][1]) == sorted([*SENT, "*", "?env", "loss [1].png"])


# --------------------------------------------------------------------------------------------------- it is refused


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"target_modules": ["query"]}, "AD3"),
        ({"base_model_name_or_path": "/home/anna/base"}, "AD604"),
        ({"base_model_name_or_path": "example/other"}, "AD603"),
    ],
)
def test_folder_with_an_error_sends_nothing(
    changes: dict[str, Any], code: str, hub: WritableHub, adapter: Path
) -> None:
    edit(adapter, **changes)
    result = run(adapter, "--base", adapter.parent / "base")

    assert (result.exit_code, hub.written()) == (1, [])
    assert f"✗ {code}" in result.stdout
    assert "refused: nothing is sent" in result.stdout


def test_secret_is_found_refused_and_never_shown(hub: WritableHub, adapter: Path) -> None:
    token = "hf_" + "AbCdEfGh12" * 3 + "abcd"
    (adapter / "train.py").write_text(f'import os\nlogin("{token}")\n')
    result = run(adapter)

    assert (result.exit_code, hub.written()) == (1, [])
    assert "AD606" in result.stdout
    assert "line 2 of train.py" in result.stdout
    assert token not in result.output
    assert token[:12] not in result.output


def test_warnings_refuse_only_when_they_are_asked_to(hub: WritableHub, adapter: Path) -> None:
    (adapter / "README.md").unlink()

    assert run(adapter, "--fail-on", "warning").exit_code == 1
    assert hub.written() == []
    assert run(adapter).exit_code == 0


def test_what_cannot_be_told_is_not_sent(hub: WritableHub, adapter: Path) -> None:
    hub.fault("/resolve/.*safetensors", Fault(status=404))
    result = run(adapter)

    assert (result.exit_code, hub.written()) == (3, [])
    assert "could not be told" in result.stdout


def test_ignored_error_lets_it_pass_and_is_told(hub: WritableHub, adapter: Path) -> None:
    (adapter / "README.md").write_text(CARD.replace(patient.BASE, "example/other"))
    result = run(adapter, "--ignore", "AD603")

    assert result.exit_code == 0
    assert "ignored: AD603" in result.stdout


def test_private_base_is_worth_a_warning(hub: WritableHub, adapter: Path) -> None:
    hub.add(patient.BASE, adapter.parent / "base", private=True, accepted={TOKEN})
    result = run(adapter, "--dry-run")

    assert (result.exit_code, "AD608" in result.stdout) == (0, True), result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "me/my-lora"], "is no folder"),
        (["me/my-lora", "."], "try: adapter-doctor upload . me/my-lora"),
        ([".", "a/b/c"], "cannot be the name of a repository"),
        ([".", "me/my-lora", "--license", "mit"], "add --fix-card"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(application(), ["upload", *arguments])

    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr


# ----------------------------------------------------------------------------------------- the Hub does not take it


@pytest.mark.parametrize("at", ["/repos/create", "/preupload/", "/objects/batch", "/store/", "/commit/main"])
@pytest.mark.parametrize("status", [401, 403, 409, 413, 500, 503, "cut"])
def test_fault_ends_in_a_sentence_and_no_half_commit(
    at: str, status: int | str, hub: WritableHub, adapter: Path
) -> None:
    made = at != "/repos/create"
    if made:
        hub.add("me/my-lora", {".gitattributes": b""}, accepted={TOKEN})
    fault = Fault(body=b"{" + b" " * 99, cut=10, claim=1000) if status == "cut" else Fault(status=int(status))
    hub.fault(at, fault, "PUT" if at == "/store/" else "POST")
    result = run(adapter)

    assert result.exit_code == 3, result.output
    assert result.stderr.startswith("not uploaded: ")
    assert "  try: " in result.stderr
    assert "nothing was committed" in result.stderr
    assert TOKEN not in result.output
    assert isinstance(result.exception, SystemExit)
    assert hub.commits_made == []
    assert sorted(hub.files("me/my-lora")) == [".gitattributes"] if made else not hub.there("me/my-lora")


def test_tokens_that_may_not_write_are_told_so(hub: WritableHub, adapter: Path) -> None:
    hub.add("me/my-lora", {".gitattributes": b""}, accepted={TOKEN})
    reader = run(adapter, token="hf_reader_reader_reader")

    assert reader.exit_code == 3
    assert "may not write to me/my-lora" in reader.stderr


def test_branch_that_moved_meanwhile_is_not_overwritten(
    hub: WritableHub, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("me/my-lora", {".gitattributes": b""}, accepted={TOKEN})
    before = hub._preupload

    def preupload(repo: str, *more: Any) -> Any:
        hub.add("me/my-lora", {"other.txt": b"theirs"}, accepted={TOKEN})
        return before(repo, *more)

    monkeypatch.setattr(hub, "_preupload", preupload)
    result = run(adapter)

    assert result.exit_code == 3
    assert "was changed by somebody else meanwhile" in result.stderr
    assert sorted(hub.files("me/my-lora")) == ["other.txt"]


def test_answer_cut_after_the_commit_is_told_as_what_it_is(
    hub: WritableHub, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hub._commit

    def commit(*arguments: Any) -> Any:
        before(*arguments)
        return 502, b"", {}

    monkeypatch.setattr(hub, "_commit", commit)
    result = run(adapter)

    assert result.exit_code == 3
    assert "has a new commit" in result.stderr


# ----------------------------------------------------------------------------------------------- card, in Python


def test_card_is_completed_and_nothing_in_it_changed(hub: WritableHub, adapter: Path) -> None:
    (adapter / "README.md").write_text("---\nlanguage: de\ntags: [mine]\n---\n\n# Mine\n\nText.\n")
    result = run(adapter, "--fix-card", "--license", "mit", "--fail-on", "warning")

    assert result.exit_code == 0, result.output
    card = read_card(adapter)
    assert card.metadata == {
        "language": "de", "tags": ["mine"], "base_model": patient.BASE, "base_model_relation": "adapter",
        "library_name": "peft", "license": "mit", "pipeline_tag": "text-generation",
    }  # fmt: skip
    assert (adapter / "README.md").read_text().endswith("# Mine\n\nText.\n")


def test_licence_is_never_made_up(tmp_path: Path) -> None:
    config = AdapterConfig({"peft_type": "LORA", "base_model_name_or_path": "/home/anna/base"})
    card = read_card(tmp_path)

    assert completion(card, config) == {"library_name": "peft", "tags": ["peft", "lora"]}
    complete(tmp_path, completion(card, config, "mit"))
    assert read_card(tmp_path).metadata == {"library_name": "peft", "license": "mit", "tags": ["peft", "lora"]}


@pytest.mark.parametrize(
    "text",
    ["---\na: [\n---\n", "---\nnever ends", "---\n- a list\n---\n", "---\n" + "[" * 5000 + "\n---\n", "---\na: &x [*x]\n---\n", "\xff"],
    ids=["yaml", "open", "list", "deep", "loop", "bytes"],
)  # fmt: skip
def test_card_of_any_kind_is_read_without_a_crash(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(text.encode("latin-1"))
    card = read_card(tmp_path)

    assert card.present
    assert card.names("a") == ()


def test_dry_run_leaves_the_card_alone(hub: WritableHub, adapter: Path) -> None:
    (adapter / "README.md").write_text("# Mine\n")
    result = run(adapter, "--fix-card", "--license", "mit", "--dry-run")

    assert "would be written into README.md: base_model: example/tiny-llama" in result.stderr
    assert (adapter / "README.md").read_text() == "# Mine\n"


def test_upload_from_python_sends_or_raises(hub: WritableHub, adapter: Path) -> None:
    plan, sent = upload(adapter, "me/my-lora", load="no", token=TOKEN)
    assert sent is not None
    assert (plan.exit_code, sent.repo, len(hub.commits_made)) == (0, "me/my-lora", 1)

    edit(adapter, target_modules=["query"])
    with pytest.raises(AdapterError) as refused:
        upload(adapter, "me/my-lora", load="no", token=TOKEN)
    assert refused.value.report.verdict == "incompatible"
    with pytest.raises(DoctorError, match="is no folder"):
        upload(adapter / "nowhere", "me/my-lora")
    assert len(hub.commits_made) == 1


# -------------------------------------------------------------------------------------------------- files, secrets


def test_files_are_told_apart_by_name(tmp_path: Path) -> None:
    wanted = [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "images/loss.png",
        ".gitattributes",
    ]
    strays = [
        "global_step5/zero.pt",
        "pytorch_model_fsdp.bin",
        "wandb/run-1/x",
        "deep/__pycache__/a.pyc",
        "scheduler.pt",
    ]
    for name in [*wanted, *strays, ".git/config", ".cache/huggingface/x"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12")
    found = contents(tmp_path)

    assert dict(found.files) == dict.fromkeys(sorted(wanted), 2)
    assert sorted(found.left_out) == sorted(strays)
    assert found.included == {}


SECRETS = {
    "Hugging Face token": "hf_" + "aB3dE5gH7j" * 3 + "abcd",
    "AWS Access Key": "AKIA" + "ABCDEFGH23456789",
    "GitHub Token": "ghp_" + "aB3dE5gH7j" * 3 + "abcdef",
    "Private Key": "-----BEGIN RSA PRIVATE KEY-----",
    "Anthropic key": "sk-ant-" + "api03-" + "aB3dE5gH7j" * 3,
    "Weights & Biases key": 'WANDB_API_KEY="' + "0123456789abcdef0123" * 2 + '"',
}  # fmt: skip


@pytest.mark.parametrize("kind", SECRETS)
def test_secret_of_this_kind_is_found_and_masked(kind: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(f"line\nkey = {SECRETS[kind]}\n")
    (found,) = secrets(tmp_path, ["notes.txt"]).found

    assert (found.file, found.line, found.kind) == ("notes.txt", 2, kind)
    assert SECRETS[kind] not in found.masked


def test_no_secret_is_seen_where_there_is_none(tmp_path: Path) -> None:
    """What adapters have beside them: configs, hashes, vocabularies, code that reads a token from its environment."""
    _, adapter = patient.write(tmp_path)
    (adapter / "tokenizer.json").write_text(json.dumps({"vocab": {f"{n:x}AKC{n}" * 4: n for n in range(3000)}}))
    (adapter / "use.py").write_text(
        'token = os.environ["HF_TOKEN"]\nlogin(token="hf_...")\npassword = "YOUR_PASSWORD"\n'
    )
    (adapter / "sums.txt").write_text("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  x.bin\n" * 50)
    names = [path.name for path in adapter.iterdir()]

    assert secrets(adapter, names).found == ()


def test_secret_in_a_text_that_powershell_wrote_is_found(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(f"one\ntoken {TOKEN}\n", "utf-16")

    assert [(one.line, one.kind) for one in secrets(tmp_path, ["log.txt"]).found] == [(2, "Hugging Face token")]


def test_large_text_is_searched_in_part_and_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("x " * 600_000)

    assert secrets(tmp_path, ["tokenizer.json", "not-there.txt"]).unread == ("tokenizer.json", "not-there.txt")
