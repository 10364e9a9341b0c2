"""Tests of references."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapter_doctor.errors import DoctorError
from adapter_doctor.reference import Reference, parse


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    return tmp_path


def named(text: str, **options: str) -> tuple[str | None, str | None, str | None]:
    found = parse(text, **options)
    assert found.path is None
    return found.repo, found.revision, found.subfolder


# ------------------------------------------------------------------------------------------------ repositories


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpt2", ("gpt2", None, None)),
        ("owner/name", ("owner/name", None, None)),
        (" owner/name\n", ("owner/name", None, None)),
        ("owner/name/", ("owner/name", None, None)),
        ("owner/name@v1.0", ("owner/name", "v1.0", None)),
        ("gpt2@main", ("gpt2", "main", None)),
        ("owner/name@refs/pr/3", ("owner/name", "refs/pr/3", None)),
        ("owner/name@refs/pr/3/checkpoint-10", ("owner/name", "refs/pr/3", "checkpoint-10")),
        ("owner/name@feature%2Fnew", ("owner/name", "feature/new", None)),
        ("owner/name@607a30d", ("owner/name", "607a30d", None)),
        ("owner/name/sub/folder", ("owner/name", None, "sub/folder")),
        ("owner/name@v1/sub/folder", ("owner/name", "v1", "sub/folder")),
        ("owner/name/sub/adapter_config.json", ("owner/name", None, "sub")),
        ("hf://owner/name", ("owner/name", None, None)),
        ("hf://models/owner/name@v1/sub", ("owner/name", "v1", "sub")),
        ("hf://gpt2", ("gpt2", None, None)),
        ("HF://owner/name", ("owner/name", None, None)),
    ],
)
def test_a_repository_is_named_in_the_ways_of_the_hub(text: str, expected: tuple[str | None, ...]) -> None:
    assert named(text) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://huggingface.co/owner/name", ("owner/name", None, None)),
        ("https://huggingface.co/owner/name/", ("owner/name", None, None)),
        ("http://www.huggingface.co/owner/name?library=peft#use", ("owner/name", None, None)),
        ("huggingface.co/owner/name", ("owner/name", None, None)),
        ("https://hf.co/owner/name", ("owner/name", None, None)),
        ("https://huggingface.co/gpt2", ("gpt2", None, None)),
        ("https://huggingface.co/gpt2/tree/main", ("gpt2", "main", None)),
        ("https://huggingface.co/owner/name/tree", ("owner/name", None, None)),
        ("https://huggingface.co/owner/name/tree/v1/sub/folder", ("owner/name", "v1", "sub/folder")),
        ("https://huggingface.co/owner/name/tree/refs%2Fpr%2F3", ("owner/name", "refs/pr/3", None)),
        ("https://huggingface.co/owner/name/tree/refs/pr/3/sub", ("owner/name", "refs/pr/3", "sub")),
        ("https://huggingface.co/owner/name/tree/feature%2Fnew/sub", ("owner/name", "feature/new", "sub")),
        ("https://huggingface.co/owner/name/tree/main/two%20words", ("owner/name", "main", "two words")),
        ("https://huggingface.co/owner/name/blob/main/adapter_config.json", ("owner/name", "main", None)),
        ("https://huggingface.co/owner/name/blob/main/sub/notes.txt", ("owner/name", "main", "sub")),
        (
            "https://huggingface.co/owner/name/resolve/main/sub/model.bin?download=true",
            ("owner/name", "main", "sub"),
        ),
        ("https://huggingface.co/owner/name/commit/607a30d", ("owner/name", "607a30d", None)),
        ("https://huggingface.co/api/models/owner/name", ("owner/name", None, None)),
        ("https://me:hf_secret@huggingface.co/owner/name", ("owner/name", None, None)),
    ],
)
def test_a_pasted_web_address_names_its_repository(address: str, expected: tuple[str | None, ...]) -> None:
    found = parse(address)
    assert named(address) == expected
    assert "hf_secret" not in repr(found)
    assert str(found).startswith("hf://")


def test_the_address_of_the_hub_in_use_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example.org:8080/hf/")
    assert named("http://hub.example.org:8080/hf/owner/name/tree/v1") == ("owner/name", "v1", None)
    assert named("hub.example.org:8080/hf/owner/name") == ("owner/name", None, None)
    assert named("https://huggingface.co/owner/name") == ("owner/name", None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty reference names nothing"),
        (" \t", "an empty reference names nothing"),
        ("owner/\0name", "a reference cannot contain a NUL character"),
        ("hf://datasets/owner/name", "'hf://datasets/owner/name' is a dataset, expected a model"),
        ("https://huggingface.co/spaces/owner/name", "the web address is that of a Space, expected a model"),
        ("https://huggingface.co/datasets/owner/name", "the web address is that of a dataset, expected a model"),
        (
            "https://huggingface.co/owner/name/discussions/3",
            "the web address is that of a page 'discussions', expected a repository or its files",
        ),
        ("https://huggingface.co/", "the web address names no repository"),
        ("https://user:hf_secret@example.org/owner/name", "'https://example.org' is not the address of a Hub"),
        ("https:///owner/name", "'https://' is not the address of a Hub"),
        ("s3://bucket/key", "'s3://bucket' is not the address of a Hub"),
        ("https://[huggingface.co/x", "the web address cannot be read"),
        ("owner/name@", "'owner/name@' has no revision after the @"),
        ("hf://owner/name@../x", "'..' cannot be a revision"),
        ("owner/name@two words", "'two words' cannot be a revision"),
        (
            "owner/name/sub@v1",
            "'owner/name/sub@v1' has its revision after the subfolder, expected it after the name",
        ),
        ("hf://owner/name/a/../..", "the subfolder 'a/../..' leads out of the repository, expected one in it"),
        ("hf://owner/na--me", "'owner/na--me' cannot be the name of a repository"),
    ],
)
def test_what_names_nothing_is_refused_with_a_sentence(text: str, message: str) -> None:
    with pytest.raises(DoctorError) as caught:
        parse(text)
    assert caught.value.message == message


# ----------------------------------------------------------------------------------------------------- options


def test_options_stand_for_what_the_text_leaves_out() -> None:
    assert named("owner/name", revision="v1", subfolder="sub/") == ("owner/name", "v1", "sub")
    assert str(parse("owner/name", revision="feature/new", subfolder="sub")) == "owner/name@feature%2Fnew/sub"
    assert named("owner/name@v1", revision="v1") == ("owner/name", "v1", None)


def test_options_that_contradict_the_text_are_refused() -> None:
    with pytest.raises(DoctorError, match="names the revision 'v1', and the option the revision 'v2'"):
        parse("owner/name@v1", revision="v2")
    with pytest.raises(DoctorError, match="names the subfolder 'a', and the option the subfolder 'b'"):
        parse("owner/name/a", subfolder="b")


def test_a_folder_has_a_subfolder_but_no_revision(tmp_path: Path) -> None:
    assert parse(str(tmp_path), subfolder="sub").path == tmp_path / "sub"
    with pytest.raises(DoctorError, match="is a folder, and the revision 'v1' has no meaning for it"):
        parse(str(tmp_path), revision="v1")


# ----------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("text", ["/no/such", "./here", "../up", ".", "..", "C:\\models\\x", "two words", "a/b/../c"])
def test_a_path_is_a_path_though_nothing_is_there(text: str) -> None:
    found = parse(text)
    assert (found.path, found.repo, found.shadowed) == (Path(text), None, False)


def test_the_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse("~/lora").path == Path("/home/someone/lora")
    assert parse("~nobody-of-that-name/lora").path == Path("~nobody-of-that-name/lora")


def test_a_folder_wins_over_the_repository_of_its_name_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "owner/name").mkdir(parents=True)
    found = parse("owner/name")
    assert found == Reference("owner/name", path=Path("owner/name"), shadowed=True)
    assert parse("./owner/name").shadowed is False
    assert parse("hf://owner/name").repo == "owner/name"
    with pytest.raises(DoctorError) as caught:
        parse("owner/name", revision="v1")
    assert caught.value.hint == "for the repository on the Hub write hf://owner/name"


def test_a_dangling_link_is_the_folder_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "lora").symlink_to("nowhere")
    assert parse("lora").path == Path("lora")


# -------------------------------------------------------------------------------------------------- properties

_pieces = st.sampled_from(
    ["owner", "name", "/", "@", "..", ".", "~", "hf://", "https://huggingface.co/", "models", "datasets", "tree",
     "main", "blob", "refs/pr/3", "%2F", "%", "#", "?", " ", "\\", "a.json", "adapter_config.json", "--", ".git", "é",
     "[", ":"]
)  # fmt: skip
texts = st.one_of(st.text(), st.lists(_pieces, max_size=9).map("".join), st.lists(_pieces, max_size=7).map("/".join))


def parsed_or_none(text: str, **options: str | None) -> Reference | None:
    try:
        return parse(text, **options)
    except DoctorError:
        return None


@given(texts)
@example("hf://models/models/x")
@example("~\udc80")
@example("x" * 5000)
def test_any_text_is_parsed_or_refused_politely(text: str) -> None:
    parsed_or_none(text)


@given(texts, st.one_of(st.none(), texts), st.one_of(st.none(), texts))
@example("gpt2", None, "sub")
@example("owner/name", None, "a@b")
@example("owner/name", "50%2F", None)
@example("owner//name", None, None)
def test_what_a_reference_prints_is_the_same_reference(text: str, revision: str | None, subfolder: str | None) -> None:
    found = parsed_or_none(text, revision=revision, subfolder=subfolder)
    if found is not None:
        assert parse(str(found)) == found


@given(texts)
def test_a_repository_leads_nowhere_else(text: str) -> None:
    found = parsed_or_none(text)
    if found is not None and found.path is None:
        assert found.repo
        for part in (found.repo, found.revision or "", found.subfolder or ""):
            assert ".." not in part.split("/")
            assert not os.path.isabs(part)  # noqa: PTH117
