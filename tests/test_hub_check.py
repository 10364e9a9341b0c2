"""Whole checks of a base and an adapter that lie on a Hub: verdicts, few requests, and every way to fail."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import hub_server
import peft_types
import pytest
from hub_server import PROXY_PAGE, Fault, HubServer
from safetensors.numpy import load_file, save

from adapter_doctor import check, fix, inspect
from adapter_doctor.loading.process import LoadingChild
from adapter_doctor.report import Report
from adapter_doctor.sources import hub_connection

BASE, ADAPTER = "acme/tiny", "me/lora"
WEIGHTS = "adapter_model.safetensors"
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pair")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = peft_types.make_base(root / "base")
        return base, peft_types.make_adapter("LORA", base, root / "adapter")


@pytest.fixture
def hub(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(hub_connection, "PAUSES", (0.01, 0.02))
    with HubServer(latency=0.03) as running, hub_server.in_use(running.url, tmp_path / "home"):
        for name, folder in zip((BASE, ADAPTER), pair, strict=True):
            running.add(name, {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
        yield running


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    with LoadingChild() as started:
        yield started


def static(**options: object) -> Report:
    return check(BASE, ADAPTER, load="no", cache=False, time_limit=20, **options)  # type: ignore[arg-type]


def test_static_check_is_compatible_within_four_round_trips(hub: HubServer) -> None:
    report = static()
    assert report.verdict == "compatible", report.summary
    assert len(report.base["revision"]) == len(report.adapter["revision"]) == 40
    assert hub.round_trips() <= 4


def test_second_check_asks_for_the_revisions_alone_and_offline_for_nothing(hub: HubServer) -> None:
    static()
    hub.forget()
    assert static().verdict == "compatible"
    assert hub.round_trips() <= 2
    hub.forget()
    assert static(offline=True).verdict == "compatible"
    assert hub.round_trips() == 0


def test_skeleton_check_downloads_the_adapter_and_no_weight_of_the_base(hub: HubServer, child: LoadingChild) -> None:
    report = check(BASE, ADAPTER, child=child, cache=False)
    assert report.verdict == "compatible", report.summary
    assert report.landed is not None
    assert report.landed["landed"] == report.landed["in_file"] == 12
    assert not [one for one in hub.seen if BASE in one.path and "model.safetensors" in one.path]


def test_skeleton_check_without_values_proves_the_fit_from_the_header(hub: HubServer, child: LoadingChild) -> None:
    report = check(BASE, ADAPTER, child=child, cache=False, values=False)
    assert report.verdict == "compatible", report.summary
    assert report.landed is not None
    assert report.landed["landed"] == 12


def test_base_is_taken_from_the_adapters_config(hub: HubServer, pair: tuple[Path, Path]) -> None:
    config = json.loads((pair[1] / "adapter_config.json").read_text()) | {"base_model_name_or_path": BASE}
    files = {path.name: path.read_bytes() for path in pair[1].iterdir() if path.is_file()}
    hub.add(ADAPTER, files | {"adapter_config.json": json.dumps(config).encode()})
    report = check(None, ADAPTER, load="no", cache=False)
    assert report.verdict == "compatible", report.summary
    assert report.base["reference"] == BASE


def test_adapter_on_the_hub_is_mended_into_a_folder_here(
    hub: HubServer, pair: tuple[Path, Path], child: LoadingChild, tmp_path: Path
) -> None:
    state = {key.replace("model.", "model._orig_mod.", 1): value for key, value in load_file(pair[1] / WEIGHTS).items()}
    raw = json.loads((pair[1] / "adapter_config.json").read_text()) | {"base_model_name_or_path": "/root/train/base"}
    files = {path.name: path.read_bytes() for path in pair[1].iterdir() if path.is_file()}
    hub.add("me/compiled", files | {WEIGHTS: save(state), "adapter_config.json": json.dumps(raw).encode()})
    repair = fix(BASE, "me/compiled", tmp_path / "mended", child=child, cache=False)

    assert repair.state == "mended", repair.why
    assert load_file(tmp_path / "mended" / WEIGHTS).keys() == load_file(pair[1] / WEIGHTS).keys()
    assert json.loads((tmp_path / "mended" / "adapter_config.json").read_text())["base_model_name_or_path"] == BASE
    assert {one.method for one in hub.seen} <= {"GET", "HEAD"}
    assert not [one for one in hub.seen if BASE in one.path and WEIGHTS.removeprefix("adapter_") in one.path]
    assert check(BASE, tmp_path / "mended", child=child, cache=False).verdict == "compatible"


@pytest.mark.parametrize(
    ("base", "adapter", "code"),
    [("acme/none", ADAPTER, "AD001"), (BASE, "me/none", "AD002"), (f"{BASE}@nowhere", ADAPTER, "AD004")],
)
def test_what_is_not_there_is_an_error_that_says_so(hub: HubServer, base: str, adapter: str, code: str) -> None:
    report = check(base, adapter, load="no", cache=False, time_limit=20)
    assert report.verdict == "incompatible"
    assert report.cause is not None
    assert report.cause.rule.code == code


def test_gated_base_is_an_error_that_says_what_to_do(hub: HubServer, pair: tuple[Path, Path]) -> None:
    files = {path.name: path.read_bytes() for path in pair[0].iterdir() if path.is_file()}
    hub.add("acme/gated", files, gated="manual")
    report = check("acme/gated", ADAPTER, load="no", cache=False, time_limit=20)
    assert report.verdict == "incompatible"
    assert report.cause is not None
    assert report.cause.rule.code == "AD003", report.summary


@pytest.mark.parametrize("broken", [BASE, ADAPTER])
@pytest.mark.parametrize(
    "fault",
    [Fault(status=503), Fault(status=429), Fault(status=500), PROXY_PAGE, Fault(cut=10)],
    ids=["503", "429", "500", "proxy", "cut"],
)
def test_passing_trouble_of_the_network_leaves_the_verdict_open(hub: HubServer, broken: str, fault: Fault) -> None:
    hub.fault(broken, fault)
    begun = time.monotonic()
    report = static()
    assert time.monotonic() - begun < 25
    assert (report.verdict, report.exit_code) == ("undetermined", 3), report.summary
    assert not report.diagnosis.crashed


def test_offline_without_a_copy_leaves_the_verdict_open(hub: HubServer) -> None:
    report = static(offline=True)
    assert report.verdict == "undetermined", report.summary
    assert hub.round_trips() == 0


def test_repository_that_has_moved_is_followed_and_said_so(hub: HubServer) -> None:
    hub.rename(BASE, "acme/small")
    report = static()
    assert report.verdict == "compatible", report.summary
    assert f"{BASE} has moved to acme/small: name it so" in report.notes


def sharded(files: dict[str, bytes], shards: int = 50, odd: bool = False) -> dict[str, bytes]:
    """The base with a tensor or so a shard; ``odd`` lies about the bytes of all."""
    from safetensors.numpy import load, save

    state = load(files.pop("model.safetensors"))
    parts: dict[str, dict[str, object]] = {}
    weight_map = {}
    for number, name in enumerate(sorted(state)):
        shard = f"model-{number % shards:05}.safetensors"
        parts.setdefault(shard, {})[name] = state[name]
        weight_map[name] = shard
    total = sum(one.nbytes for one in state.values()) + odd
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return {
        **files, "model.safetensors.index.json": json.dumps(index).encode(),
        **{name: save(part) for name, part in parts.items()},
    }  # fmt: skip


def test_only_as_many_shards_are_asked_as_show_each_kind_of_layer(hub: HubServer, pair: tuple[Path, Path]) -> None:
    files = sharded({path.name: path.read_bytes() for path in pair[0].iterdir() if path.is_file()})
    hub.add(BASE, files)
    report = static()
    assert report.verdict == "compatible", report.summary
    asked = {
        one.path
        for one in hub.seen
        if "/resolve/" in one.path and one.path.endswith(".safetensors") and BASE in one.path
    }
    assert 0 < len(asked) < len([name for name in files if name.endswith(".safetensors")])
    assert hub.round_trips() <= 8


def test_shards_that_were_not_asked_are_not_guessed_where_the_bytes_do_not_add_up(
    hub: HubServer, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapter_doctor.gather import base as gather_base

    files = sharded({path.name: path.read_bytes() for path in pair[0].iterdir() if path.is_file()}, odd=True)
    hub.add(BASE, files)
    assert static().verdict == "compatible"
    asked = {
        one.path
        for one in hub.seen
        if "/resolve/" in one.path and one.path.endswith(".safetensors") and BASE in one.path
    }
    assert len(asked) == len([name for name in files if name.endswith(".safetensors")])

    monkeypatch.setattr(gather_base, "MAX_REMOTE_SHARDS", 5)
    report = static()
    assert report.verdict == "undetermined"
    assert "its layers differ" in report.open_questions[0][1]


def test_weights_of_a_base_whose_tree_is_kept_are_not_looked_at(hub: HubServer, child: LoadingChild) -> None:
    assert check(BASE, ADAPTER, child=child, values=False).verdict == "compatible"
    hub.forget()
    report = check(BASE, ADAPTER, load="no", time_limit=20)
    assert report.verdict == "compatible", report.summary
    assert any("earlier load" in note for note in report.notes)


@pytest.mark.parametrize("broken", [BASE, ADAPTER])
def test_server_that_drips_is_given_up_within_the_time_limit(hub: HubServer, broken: str) -> None:
    hub.fault(f"{broken}.*(safetensors|json)|cdn", Fault(drip=0.5))
    begun = time.monotonic()
    report = check(BASE, ADAPTER, load="no", cache=False, time_limit=3)
    assert time.monotonic() - begun < 10
    assert report.verdict == "undetermined", report.summary
    assert report.exit_code == 3


def test_full_disk_leaves_the_verdict_open_and_says_so(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import huggingface_hub

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    report = static()
    assert report.verdict == "undetermined", report.summary
    assert "full" in str(report)


def test_token_never_reaches_the_report(hub: HubServer) -> None:
    token = "hf_" + "s3cret" * 6
    hub.fault(ADAPTER, Fault(status=401))
    report = static(token=token)
    assert token not in str(report)
    assert token not in str(report.to_dict())


def test_inspect_reads_config_and_header_alone(hub: HubServer) -> None:
    found = inspect(ADAPTER, BASE, time_limit=20)

    assert found.troubles == ()
    assert found.identity.sizes["layers"] == 3
    assert found.merge == "exact"
    assert found.exit_code == 0
    assert all(one.range for one in hub.seen if one.method == "GET" and "model.safetensors" in one.path)


def test_inspect_of_what_cannot_be_reached_is_open(hub: HubServer) -> None:
    assert inspect(ADAPTER, offline=True).exit_code == 3
    assert inspect("acme/nothing", time_limit=20).exit_code == 1
