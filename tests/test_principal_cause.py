"""One cause for one defect: every defect on four architectures, by files alone, and a part of them by loading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import defects
import pytest
import tiny
from defects import ARCHITECTURES, DEFECTS, Defect, Pair

from adapter_doctor import Report, check
from adapter_doctor.findings import Severity
from adapter_doctor.loading.process import LoadingChild

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    root = tmp_path_factory.mktemp("pairs")
    return {name: defects.make(name, layers, embedding, root / name) for name, layers, embedding in ARCHITECTURES}


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    with LoadingChild() as started:
        yield started


def hurt(pair: Pair, defect: Defect, folder: Path) -> Pair:
    fresh = defects.copy_of(pair, folder)
    return defect.hurt(fresh) or fresh


def assert_one_cause(report: Report, code: str) -> None:
    errors = [one for one in report.findings if one.rule.severity is Severity.ERROR]
    assert report.cause is not None, report.open_questions
    assert [one.rule.code for one in errors if one.consequence_of is None] == [code], report.summary
    assert report.diagnosis.crashed == ()
    assert " 1 tensors" not in str(report)


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len(DEFECTS) >= 60
    assert all(len(ARCHITECTURES) - len(defect.but) >= 4 for defect in DEFECTS)
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)


@pytest.mark.parametrize("architecture", [name for name, *_ in ARCHITECTURES])
def test_healthy_pair_has_no_cause(architecture: str, pairs: dict[str, Pair]) -> None:
    pair = pairs[architecture]

    report = check(pair.base, pair.adapter, load="no", cache=False)

    assert report.cause is None, report.summary
    assert report.verdict == "compatible", report.open_questions


@pytest.mark.parametrize(
    ("defect", "architecture"),
    [
        pytest.param(defect, name, id=f"{defect.name}: {name}")
        for defect in DEFECTS
        for name, *_ in ARCHITECTURES
        if name not in defect.but
    ],
)
def test_files_alone_show_the_one_cause(
    defect: Defect, architecture: str, pairs: dict[str, Pair], tmp_path: Path
) -> None:
    pair = hurt(pairs[architecture], defect, tmp_path)

    assert_one_cause(check(pair.base if pair.base_given else None, pair.adapter, load="no", cache=False), defect.code)


@pytest.mark.parametrize("number", range(len(DEFECTS)), ids=lambda number: DEFECTS[number].name)
def test_the_load_shows_the_same_cause(
    number: int, pairs: dict[str, Pair], child: LoadingChild, tmp_path: Path
) -> None:
    names = [name for name, *_ in ARCHITECTURES if name not in DEFECTS[number].but]
    architecture = names[number % len(names)]
    pair = hurt(pairs[architecture], DEFECTS[number], tmp_path)
    base = pair.base if pair.base_given else None

    assert_one_cause(check(base, pair.adapter, child=child, cache=False), DEFECTS[number].code)


def _adapted(model: Any, folder: Path, **options: Any) -> Path:
    import peft

    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"], **options))
    tiny.train_by_chance(adapted)
    adapted.save_pretrained(folder)
    return folder


def test_saved_head_without_a_task_gets_a_base_with_as_many_labels(
    pairs: dict[str, Pair], child: LoadingChild, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    base = pairs["llama"].base
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)

    report = check(base, _adapted(model, tmp_path / "adapter", modules_to_save=["score"]), child=child, cache=False)

    assert report.verdict == "compatible", report.summary


def test_tokens_trained_on_a_resized_base_are_one_matter_of_the_vocabulary(
    pairs: dict[str, Pair], child: LoadingChild, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    base = pairs["llama"].base
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(tiny.VOCABULARY + 8)
    adapter = _adapted(model, tmp_path / "adapter", task_type="CAUSAL_LM", trainable_token_indices=[130, 131])

    assert_one_cause(check(base, adapter, child=child, cache=False), "AD308")


def test_trained_tokens_of_a_resized_tied_base_are_saved_twice_and_land(child: LoadingChild, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    model = tiny.by_name("llama-tied").build()
    model.save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(tiny.VOCABULARY + 8)
    resized = tmp_path / "resized" / "base"
    model.save_pretrained(resized)
    adapter = _adapted(model, tmp_path / "adapter", task_type="CAUSAL_LM", trainable_token_indices=[130])

    report = check(resized, adapter, child=child, cache=False, load="full")

    assert report.verdict == "compatible", report.summary
