"""Tests of the Hub as a source: what it reads, what it asks for, and how it fails."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import re
import socket
import struct
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hub_server
import pytest
from hub_server import PROXY_PAGE, Fault, HubServer

from adapter_doctor.reference import parse
from adapter_doctor.sources import Unreachable, hub_connection
from adapter_doctor.sources.hub import HubSource
from adapter_doctor.sources.hub_connection import HEAD, LEAST_HEAD, SHARD_HEADS

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz0123"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 500000\n"
CONFIG = b'{"peft_type": "LORA", "r": 8}'
BUSY = Fault(status=503)


def safetensors(tensors: int, values: int = 400_000) -> bytes:
    """A safetensors file with a header of about 130 bytes a tensor, and zeros."""
    header: dict[str, Any] = {
        f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_A.weight": {
            "dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4],
        }
        for i in range(tensors)
    }  # fmt: skip
    header["rest"] = {"dtype": "U8", "shape": [values], "data_offsets": [4 * tensors, 4 * tensors + values]}
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(4 * tensors + values)


WEIGHTS = safetensors(448)
ADAPTER = {
    "adapter_config.json": CONFIG,
    "adapter_model.safetensors": WEIGHTS,
    "checkpoint-5/adapter_config.json": b"{}",
}


# A call that is left behind at the time limit may leave its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module", autouse=True)
def sockets_left_behind() -> Iterator[None]:
    """Collect those sockets here, so that no other test is blamed."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(hub_connection, "PAUSES", (0.01, 0.02, 0.04, 0.08))
    with HubServer() as running, hub_server.in_use(running.url, tmp_path / "home"):
        running.add("me/lora", ADAPTER)
        yield running


def source(text: str = "me/lora", **options: Any) -> HubSource:
    return HubSource(parse(text), **options)


def trouble_of(call: Callable[[], object]) -> Unreachable:
    with pytest.raises(Unreachable) as caught:
        call()
    assert not caught.value.why.endswith(".")
    assert caught.value.__cause__ is None
    return caught.value


def refuse_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process speak to nobody."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


# ------------------------------------------------------------------------------------------------- what it reads


def test_files_are_listed_with_their_sizes_and_the_commit_is_known(server: HubServer) -> None:
    lora = source()
    sha = server.add("me/lora", ADAPTER)
    assert lora.files() == {name: len(content) for name, content in ADAPTER.items()}
    assert lora.revision == sha
    assert lora.complete
    assert lora.reference == "me/lora"


def test_bytes_are_those_of_the_file_wherever_they_start(server: HubServer) -> None:
    lora = source()
    for start, length in ((0, 64), (8, 70_000), (0, 150_000), (300_000, 1000), (0, None), (100, None)):
        stop = None if length is None else start + length
        assert lora.read("adapter_model.safetensors", start, length) == WEIGHTS[start:stop]
    assert lora.read("adapter_model.safetensors", len(WEIGHTS) + 5, 10) == b""
    assert lora.read("adapter_config.json") == lora.read("adapter_config.json", 0, 10_000_000) == CONFIG


def test_a_subfolder_is_a_folder_of_its_own(server: HubServer) -> None:
    below = source("me/lora/checkpoint-5")
    assert below.files() == {"adapter_config.json": 2}
    assert below.read("adapter_config.json") == b"{}"
    folder = below.path("")
    assert folder is not None
    assert (folder / "adapter_config.json").read_bytes() == b"{}"


def test_only_two_levels_are_listed(server: HubServer) -> None:
    server.add("me/deep", {"a": b"", "b/c": b"", "b/d/e": b"", "b/d/f/g": b""})
    assert list(source("me/deep").files()) == ["a", "b/c"]
    assert list(source("me/deep/b").files()) == ["c", "d/e"]


@pytest.mark.parametrize("revision", ["old", "refs%2Fpr%2F3", "feature%2Fnew", "commit", "short"])
def test_branches_tags_commits_and_pull_requests_are_found(server: HubServer, revision: str) -> None:
    names = {"old": "old", "refs%2Fpr%2F3": "refs/pr/3", "feature%2Fnew": "feature/new"}
    sha = server.add("me/lora", {"README.md": b"old"}, revision=names.get(revision, "old"))
    lora = source(f"me/lora@{ {'commit': sha, 'short': sha[:7]}.get(revision, revision) }")
    assert lora.read("README.md") == b"old"
    assert lora.revision == sha


def test_a_renamed_repository_is_followed_and_its_new_name_told(server: HubServer) -> None:
    server.rename("me/lora", "us/better")
    lora = source()
    assert lora.read("adapter_config.json") == CONFIG
    assert lora.read("adapter_model.safetensors", 0, 8) == WEIGHTS[:8]
    assert (lora.renamed_to, lora.reference) == ("us/better", "me/lora")
    offline = source(offline=True)
    assert offline.read("adapter_config.json") == CONFIG
    assert offline.renamed_to == "us/better"


def test_sizes_that_a_mirror_leaves_out_are_asked_for_page_by_page(server: HubServer) -> None:
    server.sizes, server.page = False, 2
    assert source().files() == {name: len(content) for name, content in ADAPTER.items()}
    assert len([one for one in server.seen if "/tree/" in one.path]) == 2


def test_many_reads_are_answered_in_order_with_what_failed_in_its_place(server: HubServer) -> None:
    config, header, absent = source().read_many(
        [("adapter_config.json", 0, None), ("adapter_model.safetensors", 0, 8), ("no.json", 0, None)]
    )
    assert (config, header) == (CONFIG, WEIGHTS[:8])
    assert isinstance(absent, Unreachable)
    assert (absent.why, absent.state, absent.reason) == ("there is no no.json in me/lora", "absent", "file")


def test_fetching_puts_files_into_the_cache_and_tells_of_large_ones(server: HubServer) -> None:
    server.add("me/large", {"a.bin": bytes(1_500_000), "b.json": b"{}"})
    told: list[str] = []
    large = source("me/large", progress=told.append)
    assert large.path("a.bin") is None
    places = large.fetch_all(["a.bin", "b.json"])
    assert {name: place.stat().st_size for name, place in places.items()} == {"a.bin": 1_500_000, "b.json": 2}
    assert large.path("a.bin") == places["a.bin"]
    assert told == ["downloading a.bin of me/large, 2 MB"]


def test_small_files_are_fetched_without_a_bar(server: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    source().read("adapter_config.json")
    assert capfd.readouterr() == ("", "")


def test_importing_the_source_imports_no_huggingface_hub() -> None:
    code = "import sys, adapter_doctor.sources.hub; sys.exit('huggingface_hub' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# -------------------------------------------------------------------------------- what it asks for, and how often


def prepare_pair(**options: Any) -> tuple[HubSource, HubSource]:
    """Everything a static check reads, of both at once, and then the reads themselves."""
    lora, base = source("me/lora", **options), source("them/base", **options)
    with ThreadPoolExecutor(2) as pool:
        done = pool.submit(lora.prepare, "adapter_config.json", "adapter_model.safetensors")
        base.prepare("config.json", "*.index.json", "model*.safetensors")
        done.result()
    assert lora.read("adapter_config.json", 0, 1_000_000) == CONFIG
    assert lora.read("adapter_model.safetensors", 0, 64) + lora.read("adapter_model.safetensors", 64, 50_000)
    assert base.read("config.json") == b"{}"
    assert base.read("model-00003-of-00004.safetensors", 8, 5000)
    return lora, base


@pytest.fixture
def pair(server: HubServer) -> HubServer:
    shards = {f"model-{i:05}-of-00004.safetensors": safetensors(60) for i in range(1, 5)}
    server.add("them/base", {"config.json": b"{}", "model.safetensors.index.json": b"{}", **shards})
    server.latency = 0.25  # so that requests sent at once overlap on a busy machine too
    return server


def test_a_pair_takes_three_round_trips_cold_one_warm_and_none_offline(pair: HubServer) -> None:
    prepare_pair()
    assert pair.round_trips() == 3
    assert pair.sent < HEAD + SHARD_HEADS + 5_000
    pair.forget()
    prepare_pair()
    assert pair.round_trips() == 1
    assert [one.path for one in pair.seen if not one.path.startswith("/api/models/")] == []
    pair.forget()
    prepare_pair(offline=True)
    assert pair.seen == []


def test_a_long_header_takes_one_round_trip_more_straight_from_the_storage(pair: HubServer) -> None:
    long = safetensors(2000)
    pair.add("me/long", {"adapter_model.safetensors": long})
    lora = source("me/long")
    lora.prepare("*.safetensors")
    header = 8 + int.from_bytes(long[:8], "little")
    assert (pair.round_trips(), pair.seen[-1].range) == (4, f"bytes={HEAD}-{header - 1}")
    assert lora.read("adapter_model.safetensors", 8, header - 8) == long[8:header]
    assert pair.round_trips() == 4


def test_what_claims_a_header_beyond_reason_is_not_fetched_in_advance(pair: HubServer) -> None:
    pair.add("me/liar", {"adapter_model.safetensors": (1 << 40).to_bytes(8, "little") + bytes(200_000)})
    source("me/liar").prepare("*.safetensors")
    assert pair.sent < HEAD + 2000


def test_many_shards_share_what_is_asked_for_in_advance(server: HubServer) -> None:
    server.add("them/huge", {f"model-{i:05}-of-00191.safetensors": safetensors(6) for i in range(1, 192)})
    source("them/huge").prepare("model*.safetensors")
    assert server.sent < 191 * (LEAST_HEAD + 1000)


def test_weights_are_not_downloaded_for_their_header(server: HubServer) -> None:
    lora = source()
    lora.read("adapter_model.safetensors", 0, 8)
    assert lora.path("adapter_model.safetensors") is None
    assert server.sent < HEAD + 2000


def test_nothing_in_the_cache_is_asked_for_again(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download("me/lora", "adapter_model.safetensors")
    server.forget()
    assert source().read("adapter_model.safetensors", 300_000, 1000) == WEIGHTS[300_000:301_000]
    assert [one.path for one in server.seen] == ["/api/models/me/lora"]


def test_a_full_commit_that_was_seen_before_is_not_asked_for_at_all(server: HubServer) -> None:
    first = source()
    first.read("adapter_config.json")
    server.forget()
    assert source(f"me/lora@{first.revision}").read("adapter_config.json") == CONFIG
    assert server.seen == []


def test_a_branch_that_moved_is_noticed(server: HubServer) -> None:
    assert source().read("adapter_config.json") == CONFIG
    server.add("me/lora", {"adapter_config.json": b"{}"})
    assert source().read("adapter_config.json") == b"{}"


def test_a_cache_that_cannot_be_written_costs_only_time(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    Path(constants.HF_ASSETS_CACHE).write_text("a file where a folder should be")
    assert source().read("adapter_model.safetensors", 0, 8) == WEIGHTS[:8]


# ------------------------------------------------------------------------------------------------ who may read what


def test_what_is_not_there_and_what_is_private_look_alike_without_a_token(server: HubServer) -> None:
    server.add("me/secret", ADAPTER, private=True)
    for name in ("me/secret", "me/none"):
        trouble = trouble_of(source(name).files)
        assert trouble.why == (
            f"the Hub has no repository {name}, or it is private and you are not logged in: "
            "check the spelling, or run `hf auth login`"
        )
        assert (trouble.reason, trouble.temporary) == ("not-found", False)


def test_what_is_not_there_is_said_to_who_is_logged_in(server: HubServer) -> None:
    server.tokens.add(TOKEN)
    trouble = trouble_of(source("me/none", token=TOKEN).files)
    assert trouble.why == (
        "the Hub has no repository me/none, or it is private and your token may not see it: "
        "check the spelling and the token's permissions"
    )


def test_a_token_opens_a_private_repository(server: HubServer, tmp_path: Path) -> None:
    server.tokens.add(TOKEN)
    server.add("me/secret", ADAPTER, private=True, accepted={TOKEN})
    assert source("me/secret", token=TOKEN).read("adapter_config.json") == CONFIG
    (tmp_path / "home/token").write_text(TOKEN)
    assert source("me/secret").read("adapter_model.safetensors", 0, 8) == WEIGHTS[:8]


def test_the_token_goes_to_the_hub_and_not_to_its_storage(server: HubServer) -> None:
    server.tokens.add(TOKEN)
    lora = source(token=TOKEN)
    lora.read("adapter_model.safetensors", 0, 8)
    lora.read("adapter_model.safetensors", 0, 120_000)
    lora.fetch("adapter_model.safetensors")
    by_storage = {one.path.startswith("/cdn/"): set[str | None]() for one in server.seen}
    for one in server.seen:
        by_storage[one.path.startswith("/cdn/")].add(one.token)
    assert by_storage == {False: {TOKEN}, True: {None}}


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (None, "them/gated is gated: accept its terms on https://huggingface.co/them/gated, then run `hf auth login`"),
        (
            "hf_other",
            "them/gated is gated, and you have not accepted its terms: do so on https://huggingface.co/them/gated",
        ),
        (
            "hf_patient",
            "them/gated is gated, and your request for access awaits a review by its authors: wait for their answer",
        ),
    ],
)
@pytest.mark.parametrize(
    ("name", "start"), [("config.json", 0), ("model.safetensors", 0), ("model.safetensors", 200_000)]
)
def test_a_gated_repository_lists_its_files_and_says_what_is_missing_to_read_them(
    server: HubServer, token: str | None, why: str, name: str, start: int
) -> None:
    server.tokens |= {"hf_other", "hf_patient", TOKEN}
    files = {"config.json": b"{}", "model.safetensors": WEIGHTS}
    server.add("them/gated", files, gated="manual", accepted={TOKEN}, waiting={"hf_patient"})
    gated = source("them/gated", token=token)
    assert "config.json" in gated.files()
    trouble = trouble_of(lambda: gated.read(name, start, 8))
    assert (trouble.why, trouble.reason, trouble.temporary) == (why, "gated", False)
    assert source("them/gated", token=TOKEN).read(name, start, 8) == files[name][start : start + 8]


@pytest.mark.parametrize(
    ("token", "what"),
    [("hf_unknown", "is not accepted (expired, revoked or mistyped)"), ("hf_stale", "has expired")],
)
def test_a_bad_token_is_named_as_the_cause(server: HubServer, token: str, what: str) -> None:
    server.expired.add("hf_stale")
    trouble = trouble_of(source(token=token).files)
    assert trouble.why == f"your token {what}: run `hf auth login`, or unset HF_TOKEN for a public repository"
    assert (trouble.reason, trouble.temporary) == ("denied", False)


def test_a_token_without_the_permission_is_told_from_a_missing_repository(server: HubServer) -> None:
    server.fault("/api/models", Fault(status=403, body=b'{"error": "fine-grained token has no access"}'))
    trouble = trouble_of(source().files)
    assert trouble.why == "you may not read me/lora with this token: give the token read permission for it"
    assert trouble.reason == "denied"


def test_a_disabled_repository_is_told_from_a_missing_one(server: HubServer) -> None:
    message = {"X-Error-Message": "Access to this resource is disabled."}
    server.fault("/api/models", Fault(status=403, headers=message))
    assert trouble_of(source().files).why == "access to me/lora is disabled on the Hub"


def test_a_missing_revision_is_told_from_a_missing_repository(server: HubServer) -> None:
    trouble = trouble_of(source("me/lora@v9").files)
    assert trouble.why == "me/lora has no revision 'v9': check the branch, tag or commit"
    assert (trouble.reason, trouble.temporary) == ("revision", False)


def test_a_missing_subfolder_names_those_that_are_there(server: HubServer) -> None:
    trouble = trouble_of(source("me/lora/checkpoint-9").files)
    assert trouble.why == "me/lora has no folder 'checkpoint-9'; there are checkpoint-5"
    assert trouble.state == "absent"


def test_a_file_that_is_listed_but_gone_is_absent(server: HubServer) -> None:
    gone = Fault(status=404, headers={"X-Error-Code": "EntryNotFound"})
    server.fault("/resolve/", gone)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        trouble = trouble_of(lambda name=name: source().read(name, 0, 8))  # type: ignore[misc]
        assert (trouble.why, trouble.state, trouble.reason) == (f"there is no {name} in me/lora", "absent", "file")


# --------------------------------------------------------------------------------------------- what may pass by itself

LISTING, SMALL, RANGE = "/api/models/", "/resolve/.*config.json", "/resolve/.*safetensors|/cdn/"


def visit(where: str, **options: Any) -> object:
    """The call that meets a fault there."""
    lora = source(**options)
    if where == LISTING:
        return lora.files()
    return lora.read("adapter_config.json") if where == SMALL else lora.read("adapter_model.safetensors", 0, 64)


everywhere = pytest.mark.parametrize("where", [LISTING, SMALL, RANGE], ids=["listing", "small file", "range"])


@everywhere
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: HubServer, where: str, status: int) -> None:
    server.fault(where, Fault(status=status, times=2))
    assert visit(where)


@everywhere
def test_a_server_that_stays_ill_is_given_up(server: HubServer, where: str) -> None:
    server.fault(where, BUSY)
    trouble = trouble_of(lambda: visit(where))
    assert trouble.why == "the Hub answers 503 and is not well at the moment: try again later"
    assert (trouble.temporary, trouble.reason) == (True, "network")
    assert len([one for one in server.seen if one.status == 503]) in (4, 5)  # a connection may break meanwhile


@everywhere
def test_a_server_that_asks_to_wait_is_left_alone_that_long(server: HubServer, where: str) -> None:
    server.fault(where, Fault(status=429, headers={"Retry-After": "1"}, times=1))
    began = time.monotonic()
    assert visit(where, deadline=began + 30)
    assert 1 <= time.monotonic() - began < 10


@everywhere
@pytest.mark.parametrize(
    "headers",
    [{"Retry-After": "300"}, {"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}, {"RateLimit": '"api";r=0;t=300'}],
    ids=["seconds", "date", "RateLimit"],
)
def test_a_wait_beyond_the_time_limit_is_not_begun(server: HubServer, where: str, headers: dict[str, str]) -> None:
    server.fault(where, Fault(status=429, headers=headers))
    began = time.monotonic()
    trouble = trouble_of(lambda: visit(where, deadline=began + 20))
    assert time.monotonic() - began < 12
    assert re.fullmatch(
        r"the Hub limits the rate of requests: try again in [\d,]+ seconds, or log in for a higher limit", trouble.why
    )
    assert trouble.temporary


@everywhere
@pytest.mark.parametrize("fault", [Fault(delay=60), Fault(drip=0.3, body=bytes(50_000))], ids=["silent", "dripping"])
def test_the_time_limit_is_kept_with_a_slow_server(server: HubServer, where: str, fault: Fault) -> None:
    server.fault(where, fault)
    began = time.monotonic()
    trouble = trouble_of(lambda: visit(where, deadline=began + 1.5))
    assert time.monotonic() - began < 8
    assert trouble.temporary
    assert trouble.reason == "network"


def test_nothing_is_asked_for_when_the_time_is_up(server: HubServer) -> None:
    assert trouble_of(source(deadline=time.monotonic()).files).why == "the time limit was used up before"
    assert server.seen == []


@everywhere
def test_a_connection_that_was_cut_is_opened_again(server: HubServer, where: str) -> None:
    server.fault(where.replace(RANGE, "/cdn/"), Fault(cut=20, times=1), method="GET")
    assert visit(where)


@pytest.mark.parametrize("where", [LISTING, RANGE], ids=["listing", "range"])
def test_a_connection_that_is_always_cut_is_given_up(server: HubServer, where: str) -> None:
    server.fault(where.replace(RANGE, "/cdn/"), Fault(cut=20), method="GET")
    trouble = trouble_of(lambda: visit(where, deadline=time.monotonic() + 20))
    assert trouble.temporary
    assert trouble.why.endswith("fails or is cut: check the connection, or use --offline")


def test_a_small_file_that_is_always_cut_is_given_up_within_the_time_limit(server: HubServer) -> None:
    server.fault(SMALL, Fault(cut=5), method="GET")
    began = time.monotonic()
    assert trouble_of(lambda: visit(SMALL, deadline=began + 2)).temporary
    assert time.monotonic() - began < 10


@everywhere
def test_a_content_length_that_is_too_long_is_given_up(server: HubServer, where: str) -> None:
    if where == RANGE:
        server.add("me/lora", ADAPTER | {"adapter_model.safetensors": WEIGHTS[:200_000]})
    server.fault(where.replace(RANGE, "/cdn/"), Fault(claim=300_000, no_range=True))
    trouble = trouble_of(lambda: visit(where, deadline=time.monotonic() + 3))
    assert (trouble.temporary, trouble.reason) == (True, "network")


def test_a_content_length_that_is_too_short_is_noticed(server: HubServer) -> None:
    server.fault("/cdn/", Fault(claim=1000))
    trouble = trouble_of(lambda: visit(RANGE))
    assert trouble.why == f"the connection ended after 1,000 of {HEAD:,} bytes"
    assert trouble.temporary


def test_a_file_that_is_served_shorter_than_listed_is_truncated(server: HubServer) -> None:
    server.fault("/cdn/", Fault(body=bytes(300), no_range=True))
    trouble = trouble_of(lambda: visit(RANGE))
    assert trouble.why == f"the Hub lists {len(WEIGHTS):,} bytes and serves 300"
    assert (trouble.state, trouble.temporary) == ("truncated", True)


def test_a_server_without_ranges_is_read_as_far_as_needed(server: HubServer) -> None:
    large = safetensors(2000, values=30_000_000)
    server.add("me/large", {"adapter_model.safetensors": large})
    server.fault("/cdn/", Fault(no_range=True))
    lora = source("me/large")
    assert lora.read("adapter_model.safetensors", 0, 64) == large[:64]
    assert lora.read("adapter_model.safetensors", 8, 200_000) == large[8:200_008]
    assert lora.read("adapter_model.safetensors", 1_000_000, 100) == large[1_000_000:1_000_100]


def test_an_address_at_the_storage_that_expired_is_asked_for_anew(server: HubServer) -> None:
    lora = source()
    lora.read("adapter_model.safetensors", 0, 8)
    server.fault("/cdn/", Fault(status=403, times=1))
    assert lora.read("adapter_model.safetensors", 0, 120_000) == WEIGHTS[:120_000]


def test_a_storage_that_refuses_is_no_refusal_of_the_hub(server: HubServer) -> None:
    server.fault("/cdn/", Fault(status=403))
    trouble = trouble_of(lambda: visit(RANGE))
    assert trouble.why == "the Hub's storage server answers 403: is a firewall in between?"
    assert (trouble.temporary, trouble.reason) == (True, "network")


# ---------------------------------------------------------------------------------- what is not the Hub, or not the file


@everywhere
@pytest.mark.parametrize("status", [200, 403, 404, 511])
def test_a_proxys_page_is_not_taken_for_the_hub(server: HubServer, where: str, status: int) -> None:
    page = Fault(status=status, body=PROXY_PAGE.body, headers=PROXY_PAGE.headers)
    server.fault(where, page)
    trouble = trouble_of(lambda: visit(where))
    assert "check HTTPS_PROXY and HF_ENDPOINT" in trouble.why
    assert (trouble.state, trouble.temporary, trouble.reason) == ("html", True, "network")


@pytest.mark.parametrize("body", [b"[]", b"{}", b"null", b'{"id": "x", "siblings": 3}', b"\xff\xfe", b'{"a":'])
def test_json_that_is_no_hubs_is_not_taken_for_the_hub(server: HubServer, body: bytes) -> None:
    server.fault(LISTING, Fault(body=body, headers={"Content-Type": "application/json"}))
    trouble = trouble_of(source().files)
    assert re.match(r"what answers at http://127.0.0.1:\d+ is not a Hub", trouble.why)
    assert trouble.temporary


def test_a_pointer_served_in_place_of_the_weights_is_told(server: HubServer) -> None:
    server.fault("/cdn/", Fault(body=POINTER, no_range=True))
    trouble = trouble_of(lambda: visit(RANGE))
    assert trouble.why == (
        "the Hub serves a Git LFS pointer in its place: the upload was not finished, upload the file again"
    )
    assert (trouble.state, trouble.temporary, trouble.reason) == ("pointer", False, "file")


def test_a_pointer_that_was_committed_is_read_as_what_it_is(server: HubServer) -> None:
    server.add("me/pointer", {"adapter_model.safetensors": POINTER})
    assert source("me/pointer").read("adapter_model.safetensors", 0, 64) == POINTER[:64]


def test_a_damaged_copy_in_the_cache_is_named_with_its_place(server: HubServer) -> None:
    place = source().fetch("adapter_config.json")
    place.resolve().write_bytes(b"{")
    trouble = trouble_of(lambda: source().read("adapter_config.json"))
    assert trouble.why == f"the copy in the cache has 1 bytes, and the Hub lists {len(CONFIG)}: delete {place}"
    assert (trouble.state, trouble.temporary) == ("truncated", True)


# ------------------------------------------------------------------------------------------------ no way to the Hub


def test_a_name_that_cannot_be_resolved_is_told(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    trouble = trouble_of(source().files)
    assert trouble.why == (
        f"the name {server.url.removeprefix('http://')} cannot be resolved: "
        "check the connection and HF_ENDPOINT, or use --offline"
    )
    assert (trouble.temporary, trouble.reason) == (True, "network")


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("http://127.0.0.1:9", "the connection to 127.0.0.1:9 fails or is cut: check the connection, or use --offline"),
        ("nonsense", "HF_ENDPOINT is not a web address"),
    ],
)
def test_an_endpoint_where_nobody_is_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str, why: str
) -> None:
    monkeypatch.setattr(hub_connection, "PAUSES", (0.01,))
    with hub_server.in_use(endpoint, tmp_path):
        trouble = trouble_of(source().files)
    assert (trouble.why, trouble.temporary) == (why, True)


def test_an_endpoint_without_a_certificate_is_told(server: HubServer, tmp_path: Path) -> None:
    with hub_server.in_use(server.url.replace("http:", "https:"), tmp_path):
        trouble = trouble_of(source().files)
    assert trouble.temporary
    assert "certificate" in trouble.why


def test_a_proxy_that_is_not_there_is_told(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_server.in_use("http://hub.invalid", tmp_path):
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        trouble = trouble_of(source().files)
    assert trouble.temporary
    assert trouble.reason == "network"


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "(the disk is full): make room, or set HF_HOME to a folder on another disk"),
        (errno.EACCES, "(its permissions do not let you read it): set HF_HOME to a folder you may write"),
    ],
)
def test_a_full_disk_is_told(server: HubServer, monkeypatch: pytest.MonkeyPatch, number: int, cure: str) -> None:
    from huggingface_hub import constants, file_download

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file_download, "http_get", fail)
    trouble = trouble_of(lambda: source().read("adapter_config.json"))
    assert trouble.why == f"the cache {constants.HF_HUB_CACHE} cannot be written {cure}"
    assert (trouble.temporary, trouble.reason) == (True, "disk")


# -------------------------------------------------------------------------------------------------------- offline


def test_offline_without_a_copy_says_how_to_get_one(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_connections(monkeypatch)
    trouble = trouble_of(source("me/lora@v1", offline=True).files)
    assert trouble.why == (
        "the cache has no copy of me/lora at the revision v1, and offline mode is on: run once without --offline "
        "(and without HF_HUB_OFFLINE), or `hf download me/lora`"
    )
    assert (trouble.temporary, trouble.reason) == (True, "offline")


def test_offline_mode_of_huggingface_hub_is_respected(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refuse_connections(monkeypatch)
    assert trouble_of(source().files).reason == "offline"


@pytest.mark.parametrize("revision", ["", "@main", "@commit", "@short"])
def test_what_was_examined_before_can_be_examined_offline(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    before = source()
    before.read("adapter_model.safetensors", 0, 64)
    before.read("adapter_config.json")
    sha = str(before.revision)
    refuse_connections(monkeypatch)
    lora = source("me/lora" + revision.replace("commit", sha).replace("short", sha[:8]), offline=True)
    assert lora.files() == before.files()
    assert lora.complete
    assert lora.revision == sha
    assert lora.read("adapter_config.json") == CONFIG
    if revision != "@short":
        assert lora.read("adapter_model.safetensors", 8, 50_000) == WEIGHTS[8:50_008]
    trouble = trouble_of(lambda: lora.read("adapter_model.safetensors", 200_000, 8))
    assert trouble.why == "the cache has no copy of adapter_model.safetensors, and offline mode is on"
    assert (trouble.temporary, trouble.reason) == (True, "offline")


def test_what_hf_download_left_is_listed_offline(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download("me/lora", allow_patterns=["*.json"])
    refuse_connections(monkeypatch)
    lora = source(offline=True)
    assert lora.files() == {name: len(content) for name, content in ADAPTER.items()}
    assert lora.complete


def test_what_a_loader_left_is_listed_offline_as_all_that_is_known(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download("me/lora", "adapter_config.json")
    refuse_connections(monkeypatch)
    lora = source(offline=True)
    assert lora.files() == {"adapter_config.json": len(CONFIG)}
    assert not lora.complete
    assert lora.read("adapter_config.json") == CONFIG
    trouble = trouble_of(lambda: lora.read("adapter_model.safetensors", 0, 8))
    assert (trouble.temporary, trouble.reason) == (True, "offline")


# -------------------------------------------------------------------------------------------------- troubles are kept


def test_a_failure_is_remembered_and_not_suffered_twice(server: HubServer) -> None:
    server.fault(RANGE, BUSY)
    server.fault(SMALL, BUSY)
    lora = source()
    lora.prepare("adapter_config.json", "adapter_model.safetensors")
    asked = len(server.seen)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert trouble_of(lambda name=name: lora.read(name, 0, 64)).temporary  # type: ignore[misc]
    assert len(server.seen) == asked


def test_preparing_what_cannot_be_listed_leaves_the_error_to_the_reader(server: HubServer) -> None:
    lora = source("me/none")
    lora.prepare("*")
    asked = len(server.seen)
    assert trouble_of(lora.files).reason == "not-found"
    assert lora.path("adapter_config.json") is None
    assert len(server.seen) == asked


# ------------------------------------------------------------------------------------------------------------- tokens


@everywhere
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=401), Fault(status=403), Fault(status=404), Fault(status=500), Fault(status=429), Fault(cut=3),
        Fault(status=418, body=json.dumps({"error": f"no tea for Bearer {TOKEN}"}).encode()),
        Fault(status=400, headers={"X-Error-Message": f"bad token {TOKEN} at https://u:{TOKEN}@hub/?t={TOKEN}"}),
        Fault(status=302, headers={"Location": f"http://127.0.0.1:9/x?token={TOKEN}"}),
        PROXY_PAGE, Fault(delay=9),
    ],
    ids=["401", "403", "404", "500", "429", "cut", "418", "400", "302", "page", "silent"],
)  # fmt: skip
def test_a_token_is_in_no_message_log_or_output(
    server: HubServer, where: str, fault: Fault, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    server.tokens.add(TOKEN)
    server.fault(where, fault)
    lora = HubSource(parse("me/lora"), token=TOKEN, deadline=time.monotonic() + 1)
    trouble = trouble_of(lambda: (lora.read("adapter_config.json"), lora.read("adapter_model.safetensors", 0, 64)))
    own = [one.getMessage() for one in caplog.records if not one.name.startswith(("httpx", "httpcore", "urllib3"))]
    for text in (trouble.why, repr(trouble), repr(lora), *capfd.readouterr(), *own):
        assert TOKEN not in text
    assert trouble.__context__ is None


def test_the_servers_own_words_are_shown_without_what_opens_doors(server: HubServer) -> None:
    said = f"no, Bearer abc.def, hf_otherother1 and {TOKEN}; see https://u:pw@hub.example.org/x?sig=1"
    server.fault(LISTING, Fault(status=400, headers={"X-Error-Message": said}))
    trouble = trouble_of(source(token="my-own-secret").files)
    assert trouble.why == "the Hub answers 400: no, [token] [token] and [token]; see https://hub.example.org/x"


# -------------------------------------------------------------------------------------------- the real clients


def test_huggingface_hub_itself_can_use_this_server(server: HubServer, tmp_path: Path) -> None:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    server.page = 2
    api = HfApi()
    info = api.model_info("me/lora", files_metadata=True)
    assert {one.rfilename: one.size for one in info.siblings or ()} == {n: len(c) for n, c in ADAPTER.items()}
    assert {one.path for one in api.list_repo_tree("me/lora", recursive=True)} >= set(ADAPTER)
    assert [one.path for one in api.get_paths_info("me/lora", ["adapter_config.json", "no"])] == ["adapter_config.json"]
    assert [one.name for one in api.list_repo_refs("me/lora").branches] == ["main"]
    assert Path(hf_hub_download("me/lora", "adapter_model.safetensors")).read_bytes() == WEIGHTS
    folder = Path(snapshot_download("me/lora"))
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == set(ADAPTER)


def test_transformers_and_peft_can_load_from_this_server(server: HubServer, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32,
    }  # fmt: skip
    server.add("them/tiny", {"config.json": json.dumps(config).encode()})
    script = f"""
        from pathlib import Path
        from transformers import AutoConfig, AutoModelForCausalLM
        from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained("them/tiny"))
        get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained({str(tmp_path / "saved")!r})
        print("saved", flush=True)
        input()
        assert PeftConfig.from_pretrained("me/tiny-lora").target_modules == {{"q_proj"}}
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained("them/tiny"))
        print(type(PeftModel.from_pretrained(model, "me/tiny-lora")).__name__)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | hub_server.environment(server, tmp_path / "theirs"),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "saved\n"
        server.add("me/tiny-lora", tmp_path / "saved")
        out, _ = process.communicate("go\n", timeout=120)
    assert (process.returncode, out.splitlines()[-1]) == (0, "PeftModel")
