"""What is gathered from folders on disk: everything that is there, nothing that is not, and no exception for what is bad."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import torch
import transformers

from adapter_doctor import doctor, knowledge
from adapter_doctor.doctor import check
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterFolder,
    AdapterTensors,
    BaseCheckpoint,
    BaseConfig,
    BaseFolder,
    BaseModules,
    ConfigFile,
    Facts,
    Missing,
    PickleScan,
    WeightsFiles,
)
from adapter_doctor.formats.packed_weights import logical_shapes
from adapter_doctor.gather.adapter import gather_adapter
from adapter_doctor.gather.base import gather_base
from adapter_doctor.gather.environment import PACKAGES, gather_environment
from adapter_doctor.gather.load import modules_from
from adapter_doctor.gather.modules import modules_from_checkpoint
from adapter_doctor.loading import child
from adapter_doctor.sources import Unreachable
from adapter_doctor.sources.disk import DiskSource

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"


def source(folder: Path) -> DiskSource:
    return DiskSource(folder, "some/adapter")


def save(model: Any, folder: Path, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.utils.logging.disable_progress_bar()
        model.save_pretrained(folder, **options)
    return folder


@cache
def llama() -> Any:
    return tiny.by_name("llama").build()


CONFIG_RAW: Mapping[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"],
    "base_model_name_or_path": "some/base", "bias": "none",
}  # fmt: skip


def lora_state(config: Mapping[str, Any] = CONFIG_RAW) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    state = {}
    for layer in range(3):
        for leaf, out in (("q_proj", 32), ("v_proj", 16)):
            path = f"base_model.model.model.layers.{layer}.self_attn.{leaf}"
            state[f"{path}.lora_A.weight"] = torch.randn(config["r"], 32, generator=generator)
            state[f"{path}.lora_B.weight"] = torch.randn(out, config["r"], generator=generator)
    return state


def write_adapter(folder: Path, config: Mapping[str, Any] = CONFIG_RAW) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config))
    safetensors.torch.save_file(
        lora_state(config if isinstance(config.get("r"), int) else CONFIG_RAW), folder / WEIGHTS
    )
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(llama(), tmp_path_factory.mktemp("bases") / "llama")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


# ------------------------------------------------------------------------------------------------- a folder on disk


def test_files_are_listed_two_levels_deep_with_their_sizes(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"12345")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"1")
    (tmp_path / "sub" / "deeper").mkdir()
    (tmp_path / "sub" / "deeper" / "c").write_bytes(b"1")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_bytes(b"1")

    assert dict(source(tmp_path).files()) == {"a.json": 5, "sub/b": 1}


def test_ranges_of_a_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    folder = source(tmp_path)

    assert (folder.read("a"), folder.read("a", 3, 4), folder.read("a", 8), folder.read("a", 8, 99)) == (
        b"0123456789", b"3456", b"89", b"89",
    )  # fmt: skip
    assert (folder.path("a"), folder.revision) == (tmp_path / "a", None)


def test_links_that_lead_somewhere_are_followed(tmp_path: Path) -> None:
    """The Hub's cache is made of such links."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    write_adapter(blobs)
    snapshot.mkdir()
    for name in (CONFIG, WEIGHTS):
        (snapshot / name).symlink_to(blobs / name)
    (tmp_path / "linked").symlink_to(snapshot, target_is_directory=True)

    facts = gather_adapter(source(tmp_path / "linked"), Facts())

    assert facts.get(AdapterConfig) == AdapterConfig(dict(CONFIG_RAW))
    assert len(lora_state()) == len(facts.get(AdapterTensors).tensors)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["loop", "dangling", "to itself"])
def test_link_that_leads_nowhere_is_listed_and_says_why_when_read(kind: str, tmp_path: Path) -> None:
    link = tmp_path / "a"
    if kind == "loop":
        (tmp_path / "b").symlink_to(link)
    link.symlink_to({"loop": tmp_path / "b", "dangling": tmp_path / "nowhere", "to itself": link}[kind])
    folder = source(tmp_path)

    assert folder.files()["a"] == 0
    with pytest.raises(Unreachable) as error:
        folder.read("a")
    assert (
        error.value.why
        == {
            "dangling": "it does not exist",
            "loop": "it is a symbolic link that leads back to itself",
            "to itself": "it is a symbolic link that leads back to itself",
        }[kind]
    )


def test_looping_link_in_a_subfolder_hides_no_file_beside_it(tmp_path: Path) -> None:
    write_adapter(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-1" / "a").symlink_to(tmp_path / "checkpoint-1" / "a")
    (tmp_path / "checkpoint-1" / "b").symlink_to(tmp_path / "nowhere")

    assert {"checkpoint-1/" + CONFIG, "checkpoint-1/" + WEIGHTS} <= set(source(tmp_path).files())


def test_folder_that_is_a_looping_link_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")

    with pytest.raises(Unreachable, match="it is a symbolic link that leads back to itself"):
        source(tmp_path / "a").files()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        pytest.param("nowhere", "it does not exist", id="nothing"),
        pytest.param("file", "part of the path is a file, not a folder", id="file for folder"),
        pytest.param("file/inside", "part of the path is a file, not a folder", id="below a file"),
        pytest.param("n" * 300, "the name is too long", id="long name"),
        pytest.param("fifo", "part of the path is a file, not a folder", id="fifo"),
    ],
)
def test_folder_that_is_none_says_why(path: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(Unreachable) as error:
        source(tmp_path / path).files()
    assert (error.value.why, error.value.reason, error.value.temporary) == (why, "not-found", False)


def test_fifo_socket_and_device_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / CONFIG)
    (tmp_path / WEIGHTS).symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        folder = source(tmp_path)
        began = time.monotonic()

        assert dict(folder.files()) == {}
        for name in (CONFIG, WEIGHTS, "s"):
            with pytest.raises(Unreachable, match="it is not a regular file"):
                folder.read(name)
        facts = gather_adapter(folder, Facts())
        assert isinstance(facts.get(AdapterConfig), Missing)
        assert time.monotonic() - began < 10


def as_nobody(folder: Path, *, action: str) -> Any:
    """What a source tells a user without rights, even where the tests run as root."""
    script = (
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from adapter_doctor.sources import Unreachable\n"
        "from adapter_doctor.sources.disk import DiskSource\n"
        "from adapter_doctor.errors import os_error_sentence\n"
        "if os.getuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
        "folder = DiskSource(Path(sys.argv[1]), 'x')\n"
        "try:\n    print(json.dumps(dict(folder.files()) if sys.argv[2] == 'list' else folder.read(sys.argv[2]).decode()))\n"
        "except Unreachable as error:\n    print(json.dumps([error.why, error.reason, error.state]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), action], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.fixture
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that any user may enter: those of pytest are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="adapter-doctor-"))
    folder.chmod(0o755)
    yield folder
    for inner in [folder, *folder.rglob("*")]:
        if not inner.is_symlink():
            inner.chmod(0o755)
    shutil.rmtree(folder)


def test_folder_without_permission_is_denied_and_not_called_missing(open_to_all: Path) -> None:
    closed = open_to_all / "closed"
    closed.mkdir(mode=0o000)

    assert as_nobody(closed, action="list") == ["its permissions do not let you read it", "denied", "unreadable"]
    assert as_nobody(closed / "inside", action="list")[:2] == ["its permissions do not let you read it", "denied"]


def test_file_without_permission_is_listed_and_says_why_when_read(open_to_all: Path) -> None:
    (open_to_all / "secret").write_text("x")
    (open_to_all / "open").write_text("y")
    (open_to_all / "secret").chmod(0o000)

    assert as_nobody(open_to_all, action="list") == {"open": 1, "secret": 1}
    assert as_nobody(open_to_all, action="secret")[0] == "its permissions do not let you read it"
    assert as_nobody(open_to_all, action="open") == "y"


def test_subfolder_without_permission_hides_nothing_else(open_to_all: Path) -> None:
    (open_to_all / "a").mkdir(mode=0o000)
    (open_to_all / "b").write_text("y")

    assert as_nobody(open_to_all, action="list") == {"b": 1}


# --------------------------------------------------------------------------------------------------------- adapters


def test_facts_of_a_healthy_adapter_are_all_there(adapter: Path) -> None:
    facts = gather_adapter(source(adapter), Facts())
    folder, tensors = facts.get(AdapterFolder), facts.get(AdapterTensors)

    assert isinstance(folder, AdapterFolder)
    assert isinstance(tensors, AdapterTensors)
    assert (folder.reference, folder.exists, sorted(folder.files)) == ("some/adapter", True, [CONFIG, WEIGHTS])
    assert tensors.shapes == {name: tuple(value.shape) for name, value in lora_state().items()}
    weights = facts.get(WeightsFiles)
    assert isinstance(weights, WeightsFiles)
    assert weights.chosen is not None
    assert (weights.chosen.name, weights.chosen.state, weights.others) == (WEIGHTS, "ok", ())
    assert facts.get(PickleScan) == PickleScan("")


def test_adapter_in_a_torch_file_is_listed_without_unpickling(adapter: Path) -> None:
    (adapter / WEIGHTS).unlink()
    torch.save(lora_state(), adapter / PICKLE)
    facts = gather_adapter(source(adapter), Facts())
    tensors = facts.get(AdapterTensors)

    assert isinstance(tensors, AdapterTensors)
    assert tensors.shapes == {name: tuple(value.shape) for name, value in lora_state().items()}
    assert facts.get(PickleScan) == PickleScan(PICKLE)


def test_optimiser_and_its_kind_are_no_other_weights(adapter: Path) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "scaler.pt"):
        (adapter / name).write_bytes(b"x")
    (adapter / "pytorch_model.bin").write_bytes(b"x")
    weights = gather_adapter(source(adapter), Facts()).get(WeightsFiles)

    assert isinstance(weights, WeightsFiles)
    assert [one.name for one in weights.others] == ["pytorch_model.bin"]


class Touches:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_torch_file_that_calls_the_system_is_unsafe_and_never_run(adapter: Path, tmp_path: Path) -> None:
    (adapter / WEIGHTS).unlink()
    torch.save({**lora_state(), "x": Touches(tmp_path / "mark")}, adapter / PICKLE)
    facts = gather_adapter(source(adapter), Facts())
    scan, weights = facts.get(PickleScan), facts.get(WeightsFiles)

    assert isinstance(scan, PickleScan)
    assert (scan.unexpected, scan.dangerous) == (("posix.system",), ("posix.system",))
    assert isinstance(weights, WeightsFiles)
    assert weights.chosen is not None
    assert (weights.chosen.state, isinstance(facts.get(AdapterTensors), Missing)) == ("unsafe", True)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("content", "state"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "pointer", id="pointer"),
        pytest.param(b"<html><body>Sign in</body></html>", "html", id="web page"),
        pytest.param(b"\xff" * 64, "unreadable", id="noise"),
    ],
)
@pytest.mark.parametrize("name", [WEIGHTS, PICKLE])
def test_weights_that_are_none_become_a_fact(name: str, content: bytes, state: str, adapter: Path) -> None:
    (adapter / WEIGHTS).unlink()
    (adapter / name).write_bytes(content)
    facts = gather_adapter(source(adapter), Facts())
    weights = facts.get(WeightsFiles)

    assert isinstance(weights, WeightsFiles)
    assert weights.chosen is not None
    assert (weights.chosen.name, weights.chosen.state) == (name, state)
    assert isinstance(facts.get(AdapterTensors), Missing)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"[]", "holds a JSON array, not an object", id="array"),
        pytest.param(b"\xef\xbb\xbf{}", "begins with a byte order mark", id="byte order mark"),
        pytest.param(b"{" * 10_000, "is nested more than 100 levels deep", id="deep"),
        pytest.param(b" " * 11_000_000, "is 11,000,000 bytes", id="large"),
        pytest.param('{"a": "é"}'.encode("latin-1"), "is not UTF-8", id="latin-1"),
    ],
)
def test_config_that_is_none_becomes_a_fact(content: bytes, says: str, adapter: Path, base: Path) -> None:
    (adapter / CONFIG).write_bytes(content)
    facts = gather_adapter(source(adapter), Facts())
    config = facts.get(ConfigFile)

    assert isinstance(config, ConfigFile)
    assert (config.file.state, says in config.file.detail) == ("unreadable", True), config.file.detail
    assert isinstance(facts.get(AdapterConfig), Missing)
    assert check(base, adapter, load="no", cache=False).exit_code == 1


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_folder_where_a_file_should_be_is_no_crash(name: str, adapter: Path, base: Path) -> None:
    (adapter / name).unlink()
    (adapter / name).mkdir()

    assert check(base, adapter, load="no", cache=False).verdict == "incompatible"


def test_only_a_torch_file_is_unsafe_where_both_exist(adapter: Path, base: Path, tmp_path: Path) -> None:
    """PEFT takes the safetensors file and never opens the other."""
    torch.save({"x": Touches(tmp_path / "mark")}, adapter / PICKLE)
    facts = gather_adapter(source(adapter), Facts())

    assert facts.get(PickleScan) == PickleScan("")
    assert check(base, adapter, load="no", cache=False).verdict == "compatible"
    assert not (tmp_path / "mark").exists()


def test_versions_are_told_without_importing_anything() -> None:
    script = (
        "import json, sys; from adapter_doctor.gather.environment import gather_environment as g; e = g();"
        "print(json.dumps([e.version('torch'), sorted({'torch', 'peft', 'transformers', 'numpy'} & set(sys.modules))]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == [torch.__version__, []]
    assert set(gather_environment().packages) == set(PACKAGES)


# ------------------------------------------------------------------------------------------------------------ bases


def test_facts_of_a_healthy_base_are_all_there(base: Path) -> None:
    facts = gather_base(source(base), Facts())
    config, checkpoint, folder = facts.get(BaseConfig), facts.get(BaseCheckpoint), facts.get(BaseFolder)

    assert isinstance(config, BaseConfig)
    assert isinstance(checkpoint, BaseCheckpoint)
    assert isinstance(folder, BaseFolder)
    assert (config.model_type, config.architectures, config.quantization) == ("llama", ("LlamaForCausalLM",), None)
    assert {name: info.shape for name, info in checkpoint.tensors.items()} == {
        name: tuple(value.shape) for name, value in llama().state_dict().items()
    }
    assert (folder.exists, folder.given, folder.adapter_base) == (True, True, None)


def test_sharded_base_is_read_through_its_index(base: Path, tmp_path: Path) -> None:
    sharded = save(llama(), tmp_path / "sharded", max_shard_size="20KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    whole, parts = (gather_base(source(one), Facts()).get(BaseCheckpoint) for one in (base, sharded))

    assert isinstance(whole, BaseCheckpoint)
    assert isinstance(parts, BaseCheckpoint)
    assert {name: info.shape for name, info in parts.tensors.items()} == {
        name: info.shape for name, info in whole.tensors.items()
    }
    assert {info.file for info in parts.tensors.values()} == {one.name for one in sharded.glob("model-*.safetensors")}


def test_sharded_base_without_one_of_its_shards_is_called_damaged(tmp_path: Path, adapter: Path) -> None:
    sharded = save(llama(), tmp_path / "sharded", max_shard_size="20KB")
    gone = sorted(sharded.glob("model-*.safetensors"))[1]
    gone.unlink()
    missing = gather_base(source(sharded), Facts()).get(BaseCheckpoint)

    assert isinstance(missing, Missing)
    assert gone.name in missing.why
    cause = check(sharded, adapter, load="no", cache=False).cause
    assert cause is not None
    assert (cause.rule.code, gone.name in cause.hits[0].message) == ("AD011", True)


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("index", "says"),
    [
        pytest.param({"weight_map": {"a": "../../etc/passwd"}}, "not there", id="leads out"),
        pytest.param({"weight_map": {"a": "x\n.safetensors\n"}}, "not there", id="newline"),
        pytest.param({"weight_map": {"a": "/etc/x.safetensors"}}, "not there", id="absolute"),
        pytest.param({"weight_map": ["a"]}, "has no weight_map", id="list"),
        pytest.param({}, "has no weight_map", id="nothing"),
        pytest.param(
            {"weight_map": {str(n): f"{n}.safetensors" for n in range(3000)}}, "names 3,000 shards", id="many"
        ),
        pytest.param([1], "holds a JSON array", id="no object"),
    ],
)
def test_index_that_cannot_be_used_says_why(index: object, says: str, tmp_path: Path, adapter: Path) -> None:
    base = save(llama(), tmp_path / "base")
    (base / "model.safetensors").unlink()
    (base / INDEX).write_text(json.dumps(index))
    missing = gather_base(source(base), Facts()).get(BaseCheckpoint)

    assert isinstance(missing, Missing)
    assert says in missing.why
    assert check(base, adapter, load="no", cache=False).verdict != "compatible"


@pytest.mark.parametrize("index", [{"weight_map": {}}, {"weight_map": {"a": 5, "b": None}}], ids=str)
def test_index_that_names_no_shard_is_no_empty_model(index: object, tmp_path: Path, adapter: Path) -> None:
    base = save(llama(), tmp_path / "base")
    (base / "model.safetensors").unlink()
    (base / INDEX).write_text(json.dumps(index))

    assert isinstance(gather_base(source(base), Facts()).get(BaseCheckpoint), Missing)
    assert check(base, adapter, load="no", cache=False).verdict == "undetermined"


def test_base_in_a_torch_file_only_is_not_known_without_a_load(tmp_path: Path, adapter: Path) -> None:
    base = save(llama(), tmp_path / "base")
    (base / "model.safetensors").unlink()
    torch.save(llama().state_dict(), base / "pytorch_model.bin")

    assert gather_base(source(base), Facts()).get(BaseCheckpoint) == Missing(
        "the base's weights: only pytorch_model.bin is there"
    )
    report = check(base, adapter, load="no", cache=False)
    assert report.verdict == "undetermined"
    assert report.cause is None


def test_base_with_a_config_alone_is_not_known_without_a_load(tmp_path: Path, adapter: Path) -> None:
    (tmp_path / "base").mkdir()
    llama().config.save_pretrained(tmp_path / "base")

    assert gather_base(source(tmp_path / "base"), Facts()).get(BaseCheckpoint) == Missing(
        "the base's weights: there are none beside the config"
    )
    assert check(tmp_path / "base", adapter, load="no", cache=False).verdict == "undetermined"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        pytest.param(json.dumps(dict(CONFIG_RAW)), "some/base", id="names its base"),
        pytest.param("{}", "", id="names none"),
        pytest.param("{broken", "", id="broken"),
        pytest.param('{"base_model_name_or_path": 5}', "", id="names a number"),
    ],
)
def test_base_that_is_an_adapter_is_known_as_one(content: str, named: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(content)
    folder = gather_base(source(tmp_path), Facts()).get(BaseFolder)

    assert isinstance(folder, BaseFolder)
    assert folder.adapter_base == named


def test_base_that_is_not_there_leaves_its_facts_missing(tmp_path: Path) -> None:
    facts = gather_base(source(tmp_path / "nowhere"), Facts())
    folder = facts.get(BaseFolder)

    assert isinstance(folder, BaseFolder)
    assert (folder.exists, folder.why, folder.reason) == (False, "it does not exist", "not-found")
    assert isinstance(facts.get(BaseConfig), Missing)
    assert isinstance(facts.get(BaseCheckpoint), Missing)


def test_config_of_a_base_of_fifty_megabytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"a": "' + b"x" * 50_000_000 + b'"}')
    missing = gather_base(source(tmp_path), Facts()).get(BaseConfig)

    assert isinstance(missing, Missing)
    assert "more than the 10,000,000 that are read" in missing.why


def test_truncated_weights_of_the_base_are_the_cause(tmp_path: Path, adapter: Path) -> None:
    base = save(llama(), tmp_path / "base")
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])

    assert isinstance(gather_base(source(base), Facts()).get(BaseCheckpoint), Missing)
    cause = check(base, adapter, load="no", cache=False).cause
    assert cause is not None
    assert cause.rule.code == "AD011"


# ---------------------------------------------------------------------------------------------------------- modules

AUTO = {
    "CAUSAL_LM": "AutoModelForCausalLM", "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM", "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification", "FEATURE_EXTRACTION": "AutoModel", "QUESTION_ANS": "AutoModelForQuestionAnswering",
}  # fmt: skip
Tree = dict[str, tuple[str, dict[str, tuple[int, ...]]]]


@cache
def built(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.utils.logging.set_verbosity_error()
        return tiny.by_name(name).build()


def with_parameters(modules: BaseModules, buffers: frozenset[str] = frozenset()) -> Tree:
    return {
        name: (one.kind, own)
        for name, one in modules.modules.items()
        if (own := {key: shape for key, shape in one.parameters.items() if f"{name}.{key}".strip(".") not in buffers})
    }


def real_modules(model: Any, task: str) -> tuple[BaseModules, frozenset[str]] | None:
    """The modules of the class that the task calls for, built from the same config; None where there is no such class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            real = getattr(transformers, AUTO[task]).from_config(copy.deepcopy(model.config))
        except ValueError:
            return None
    tree = child.module_tree(real)  # type: ignore[no-untyped-call]
    return modules_from(tree, "skeleton"), frozenset(name for name, _ in real.named_buffers())


@pytest.mark.parametrize("saved", ["whole", "body"])
@pytest.mark.parametrize("name", [one.name for one in tiny.ARCHITECTURES])
def test_modules_of_a_checkpoint_are_those_of_the_model_or_not_told(name: str, saved: str, tmp_path: Path) -> None:
    recipe, model = tiny.by_name(name), built(name)
    save(model if saved == "whole" else model.base_model, tmp_path)
    facts = gather_base(source(tmp_path), Facts())
    config, checkpoint = facts.get(BaseConfig), facts.get(BaseCheckpoint)
    assert isinstance(config, BaseConfig)
    assert isinstance(checkpoint, BaseCheckpoint)
    architecture = knowledge.architecture(config.model_type)
    assert architecture is not None
    if architecture.converted:
        return  # the names in such a checkpoint are not the model's, and nothing is concluded from them
    for task in dict.fromkeys((recipe.task, "FEATURE_EXTRACTION", "SEQ_CLS", "QUESTION_ANS")):
        derived, real = modules_from_checkpoint(config, checkpoint, task), real_modules(model, task)
        if isinstance(derived, Missing) or real is None:
            continue
        truth, buffers = real
        assert with_parameters(derived, buffers) == with_parameters(truth), task
        assert derived.output_embedding == truth.output_embedding
        assert derived.tied == truth.tied or derived.output_embedding is None
        containers = {
            one for one in truth.modules if any(other.startswith(f"{one}.") for other in with_parameters(truth))
        }
        assert containers <= set(derived.modules) | {""}


@pytest.mark.parametrize(
    "name",
    [one.name for one in tiny.ARCHITECTURES if not knowledge.architecture(one.build().config.model_type).converted],  # type: ignore[union-attr]
)
def test_usual_checkpoint_tells_its_modules_without_a_load(name: str, tmp_path: Path) -> None:
    save(built(name), tmp_path)
    facts = gather_base(source(tmp_path), Facts())
    config, checkpoint = facts.get(BaseConfig), facts.get(BaseCheckpoint)
    assert isinstance(config, BaseConfig)
    assert isinstance(checkpoint, BaseCheckpoint)

    assert isinstance(modules_from_checkpoint(config, checkpoint, tiny.by_name(name).task), BaseModules)


def four_bit(base: Path, folder: Path, **said: Any) -> Path:
    """The base as bitsandbytes 0.50 packs it: two values a byte, and the shape as JSON beside."""
    shutil.copytree(base, folder)
    whole = safetensors.torch.load_file(folder / "model.safetensors")
    packed: dict[str, Any] = {}
    for name, tensor in whole.items():
        if not name.endswith("_proj.weight"):
            packed[name] = tensor
            continue
        state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": list(tensor.shape), **said}
        packed[name] = torch.zeros(tensor.numel() // 2, 1, dtype=torch.uint8)
        packed[f"{name}.absmax"] = torch.ones(tensor.numel() // 64)
        packed[f"{name}.quant_map"] = torch.ones(16)
        text = json.dumps(state).encode()
        packed[f"{name}.quant_state.bitsandbytes__nf4"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    safetensors.torch.save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_modules_of_a_4_bit_checkpoint_are_those_it_was_made_of(base: Path, tmp_path: Path) -> None:
    before = gather_base(source(base), Facts())
    config, checkpoint = before.get(BaseConfig), before.get(BaseCheckpoint)
    assert isinstance(config, BaseConfig)
    assert isinstance(checkpoint, BaseCheckpoint)
    packed = gather_base(source(four_bit(base, tmp_path / "base")), Facts()).get(BaseCheckpoint)
    assert isinstance(packed, BaseCheckpoint)

    plain = modules_from_checkpoint(config, checkpoint, "CAUSAL_LM")
    assert isinstance(plain, BaseModules)
    assert modules_from_checkpoint(config, packed, "CAUSAL_LM") == plain


@pytest.mark.parametrize("shape", [[1 << 40, 1 << 40], "48", None, [4, -1], [True, 2]], ids=str)
def test_4_bit_shapes_that_cannot_be_are_not_believed(shape: Any, base: Path, tmp_path: Path) -> None:
    before = gather_base(source(base), Facts()).get(BaseConfig)
    assert isinstance(before, BaseConfig)
    packed = gather_base(source(four_bit(base, tmp_path / "base", shape=shape)), Facts()).get(BaseCheckpoint)
    assert isinstance(packed, BaseCheckpoint)

    assert isinstance(modules_from_checkpoint(before, packed, "CAUSAL_LM"), Missing)


@pytest.mark.parametrize(
    ("raw", "extra"),
    [
        pytest.param({"model_type": "no-such-type"}, {}, id="unknown type"),
        pytest.param({}, {}, id="no type"),
        pytest.param({"model_type": "llama"}, {"model.layers.0.self_attn.q_proj.qweight": (4, 8)}, id="packed"),
        pytest.param(
            {"model_type": "llama"},
            {"model.layers.0.self_attn.q_proj.weight.quant_state.bitsandbytes__nf4": (90,)},
            id="4 bits",
        ),
    ],
)
def test_modules_are_not_told_where_names_would_mislead(
    raw: dict[str, Any], extra: Mapping[str, Any], base: Path
) -> None:
    from adapter_doctor.facts import TensorInfo

    checkpoint = gather_base(source(base), Facts()).get(BaseCheckpoint)
    assert isinstance(checkpoint, BaseCheckpoint)
    tensors = {**checkpoint.tensors, **{name: TensorInfo("I32", shape) for name, shape in extra.items()}}

    assert isinstance(modules_from_checkpoint(BaseConfig(raw), BaseCheckpoint(tensors), "CAUSAL_LM"), Missing)


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
AWQ = {"quant_method": "awq", "bits": 4, "version": "gemm", "group_size": 128}
PACKED = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}}


@pytest.mark.parametrize(
    ("quantization", "beside"),
    [
        pytest.param(GPTQ, {"qweight": (8, 32), "qzeros": (1, 4), "scales": (1, 32), "g_idx": (64,)}, id="gptq"),
        pytest.param(AWQ, {"qweight": (64, 4), "qzeros": (1, 4), "scales": (1, 32)}, id="awq"),
        pytest.param(PACKED, {"weight_packed": (32, 8), "weight_scale": (32, 1), "weight_shape": (2,)}, id="packed"),
        pytest.param({"quant_method": "fp8"}, {"weight": (32, 64), "weight_scale_inv": (1, 1)}, id="fp8"),
        pytest.param({"load_in_8bit": True}, {"weight": (32, 64), "SCB": (32,), "weight_format": ()}, id="8 bits"),
        pytest.param(None, {"weight": (32, 64)}, id="not quantised"),
    ],
)
def test_packed_layer_has_the_shape_of_the_layer_it_stands_for(
    quantization: dict[str, Any] | None, beside: Mapping[str, tuple[int, ...]]
) -> None:
    norm = {"model.norm.weight": (64,)}
    shapes = {**norm, **{f"model.layers.0.self_attn.k_proj.{name}": shape for name, shape in beside.items()}}

    assert logical_shapes(shapes, quantization) == {**norm, "model.layers.0.self_attn.k_proj.weight": (32, 64)}


@pytest.mark.parametrize(
    "quantization", [None, {"quant_method": "gptq"}, {**GPTQ, "bits": True}, {**AWQ, "version": "gemv"}]
)
def test_packed_layer_of_an_unknown_kind_has_no_shape(quantization: dict[str, Any] | None) -> None:
    assert isinstance(logical_shapes({"q.qweight": (8, 32), "q.scales": (1, 31)}, quantization), Missing)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "a shard is missing"])
def test_damaged_base_is_told_from_an_absent_one(damage: str, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    weights = folder / "model.safetensors"
    if damage == "a shard is missing":
        weights.rename(folder / "one.safetensors")
        index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        weights.write_bytes(weights.read_bytes()[:-10] if damage == "truncated" else b"garbage" * 9)

    found = gather_base(source(folder), Facts()).get(BaseFolder)

    assert isinstance(found, BaseFolder)
    assert found.damage


@pytest.mark.parametrize("kept", ["a pointer", "a config alone", "an index alone"])
def test_base_without_its_weights_is_not_damaged(kept: str, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    weights = folder / "model.safetensors"
    if kept == "a pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    else:
        weights.unlink()
    if kept == "an index alone":
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))

    found = gather_base(source(folder), Facts()).get(BaseFolder)

    assert isinstance(found, BaseFolder)
    assert not found.damage


# ------------------------------------------------------------------------------------------------- anything at all

ODD: list[Any] = [
    *[None, True, False, 0, -1, 1, 7, 2**70, 1.5, float("nan"), float("inf"), "", "x", "(", "*", "all-linear", ".*", "\x00", "\ud800",
     "\x1b[31m", "https://example.com/x/y", "a" * 200, [], [[]], [None], [0], [-1], [1.5], ["("], ["q_proj", 5], [["q_proj"]],
     [{"a": 1}], {}, {"q_proj": 4}, {"q_proj": "4"}, {"(": 4}, {"q_proj": None}, {"": 1}, {"a": {"b": {}}}],
]  # fmt: skip
# The fields of the adapter's config that this package reads itself.
READ = {
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "rank_pattern", "alpha_pattern", "r",
    "lora_alpha", "bias", "peft_type", "task_type", "base_model_name_or_path", "target_parameters", "trainable_token_indices",
    "feedforward_modules",
}  # fmt: skip
ADAPTER_FIELDS = sorted({*knowledge.fields_of("LORA"), *knowledge.fields_of("IA3"), "surprise"})
BASE_FIELDS = [
    "architectures", "model_type", "num_hidden_layers", "hidden_size", "vocab_size", "tie_word_embeddings", "text_config", "llm_config",
    "thinker_config", "quantization_config", "compression_config", "auto_map", "is_encoder_decoder", "num_attention_heads", "head_dim",
    "num_key_value_heads", "intermediate_size", "torch_dtype", "dtype", "num_labels", "_name_or_path", "transformers_version",
]  # fmt: skip


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory, base: Path) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("changing")
    shutil.copytree(base, root / "base")
    return root / "base", write_adapter(root / "adapter")


def assert_judged(base: Path | None, adapter: Path) -> None:
    report = check(base, adapter, load="no", cache=False)

    assert report.diagnosis.crashed == ()
    assert report.verdict in ("compatible", "incompatible", "undetermined")
    json.loads(json.dumps(report.to_dict(), allow_nan=False))
    str(report).encode("utf-8")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The versions of what is installed, which take most of the time of a static check, are looked up once."""
    monkeypatch.setattr(doctor, "gather_environment", cache(gather_environment))


def troubles(
    path: Path, raw: Mapping[str, Any], field: str, judged: tuple[Path | None, Path], values: list[Any]
) -> dict[str, str]:
    """What went wrong with which value of a field; the file is left as it was."""
    found = {}
    for value in values:
        path.write_text(json.dumps({**raw, field: value}))
        try:
            assert_judged(*judged)
        except Exception as error:  # all of them are wanted in one list
            place = traceback.extract_tb(error.__traceback__)[-1]
            found[repr(value)] = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"[:200]
    path.write_text(json.dumps(raw))
    return found


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("field", ADAPTER_FIELDS)
def test_any_value_in_any_field_of_the_adapter_config_is_judged_and_raises_nothing(
    field: str, changing: tuple[Path, Path]
) -> None:
    values = ODD if field in READ else random.Random(field).sample(ODD, 6)

    assert troubles(changing[1] / CONFIG, CONFIG_RAW, field, changing, values) == {}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("field", BASE_FIELDS)
def test_any_value_in_any_field_of_the_base_config_is_judged_and_raises_nothing(
    field: str, changing: tuple[Path, Path]
) -> None:
    path = changing[0] / "config.json"
    values = [*random.Random(field).sample(ODD, 10), {"text_config": 5}, {"quant_method": 5}]

    assert troubles(path, json.loads(path.read_text()), field, changing, values) == {}


@pytest.mark.parametrize(
    "name", ["", "  ", "https://example.com/some/model", "hf://datasets/a/b", "a\x00b", "\ud800", "/" + "n" * 5000, "a/b@", "..", "~nobody/x", "s3://x"],
    ids=repr,
)  # fmt: skip
def test_any_name_of_a_base_in_the_config_is_a_finding_and_no_wrong_usage(name: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {**CONFIG_RAW, "base_model_name_or_path": name})

    assert_judged(None, adapter)
    assert check(None, adapter, load="no", cache=False).verdict != "compatible"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", sorted(knowledge.peft_types()))
def test_every_peft_type_is_judged_and_raises_nothing(kind: str, changing: tuple[Path, Path]) -> None:
    base, adapter = changing
    (adapter / CONFIG).write_text(json.dumps({**CONFIG_RAW, "peft_type": kind}))

    assert_judged(base, adapter)


def test_tensors_of_any_shape_and_dtype_are_judged_and_raise_nothing(changing: tuple[Path, Path]) -> None:
    base, adapter = changing
    (adapter / CONFIG).write_text(json.dumps(CONFIG_RAW))
    shapes: list[tuple[int, ...]] = [(), (0,), (1,), (4,), (0, 4), (4, 32), (32, 4), (4, 32, 1, 1), (1, 1, 1, 1, 1, 1)]
    dtypes = [torch.float32, torch.int8, torch.bool, torch.float8_e5m2, torch.float64]
    for number, shape in enumerate(shapes):
        state = {name: torch.zeros(shape, dtype=dtypes[number % 5]) for name in lora_state()}
        odd_names = {
            "": shape,
            ".": shape,
            "\x1b[31m": shape,
            "a" * 5000: shape,
            "base_model.model." * 50: shape,
            "lora_A": shape,
        }
        safetensors.torch.save_file(
            {**state, **{name: torch.zeros(one) for name, one in odd_names.items()}}, adapter / WEIGHTS
        )
        assert_judged(base, adapter)
    safetensors.torch.save_file({}, adapter / WEIGHTS)
    assert_judged(base, adapter)
    safetensors.torch.save_file(lora_state(), adapter / WEIGHTS)


def test_pattern_that_never_ends_does_not_hold_up_the_whole_examination(tmp_path: Path, base: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {**CONFIG_RAW, "target_modules": "(.*.*)*#"})
    began = time.monotonic()

    assert check(base, adapter, load="no", cache=False).verdict == "incompatible"
    assert time.monotonic() - began < 10


def test_healthy_adapter_is_compatible_from_files_alone(adapter: Path, base: Path) -> None:
    report = check(base, adapter, load="no", cache=False)

    assert (report.verdict, report.open_questions, report.diagnosis.crashed) == ("compatible", (), ())


def test_pickle_beside_the_safetensors_file_is_said_to_differ_only_where_it_does(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    state = {"base_model.model.q_proj.lora_A.weight": torch.ones(2, 3)}
    save_file(state, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")
    for other, expected in (
        (state, "ok"),
        ({key: value * 2 for key, value in state.items()}, "differs"),
        ({"another": torch.ones(1)}, "differs"),
    ):
        torch.save(other, tmp_path / "adapter_model.bin")
        weights = gather_adapter(DiskSource(tmp_path, "adapter"), Facts()).get(WeightsFiles)
        assert isinstance(weights, WeightsFiles)
        assert [one.state for one in weights.others] == [expected]
