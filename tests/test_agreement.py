"""The verdicts agree with PEFT: a small run of `scripts/agreement.py`, and every PEFT type healthy and broken."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import peft_types
import pytest

from adapter_doctor import check
from adapter_doctor.loading.process import LoadingChild

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def child() -> Iterator[LoadingChild]:
    with LoadingChild() as started:
        yield started


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peft_types.make_base(tmp_path_factory.mktemp("types") / "base")


def test_every_peft_type_of_the_installed_release_has_an_adapter_here() -> None:
    import peft

    assert sorted({kind.value for kind in peft.PeftType}) == peft_types.KINDS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", peft_types.KINDS)
def test_healthy_adapter_is_compatible_and_each_hurt_one_is_caught(
    kind: str, base: Path, child: LoadingChild, tmp_path: Path
) -> None:
    found = peft_types.reports(kind, base, child, tmp_path)

    for (state, load), report in found.items():
        right = "compatible" if state == "healthy" else "incompatible"
        assert report.verdict in ((right,) if load == "skeleton" else (right, "undetermined")), (state, load)
    landed = found["healthy", "skeleton"].landed
    assert landed is not None
    assert landed["landed"] == landed["in_file"] > 0
    assert peft_types.row(kind, found) in README, "the table is out of date: python scripts/type_table.py"


@pytest.mark.parametrize("seed", [11, 12])
def test_random_cases_agree_with_peft_by_values(seed: int, tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "scripts" / "agreement.py"
    done = subprocess.run(
        [sys.executable, str(script), "--n", "40", "--seed", str(seed)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " cases\n" in done.stdout


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "sizes", "codes"),
    [
        ("PROMPT_TUNING", {"hidden_size": 48}, {"AD306", "AD314"}),
        ("PREFIX_TUNING", {"num_hidden_layers": 2}, {"AD307"}),
    ],
)
def test_prompt_for_another_size_is_caught_although_peft_takes_it(
    kind: str, sizes: dict[str, int], codes: set[str], base: Path, child: LoadingChild, tmp_path: Path
) -> None:
    import peft
    import tiny
    from transformers import AutoModelForCausalLM, LlamaConfig

    recipe = tiny.by_name("llama")
    other = tmp_path / "other"
    AutoModelForCausalLM.from_config(LlamaConfig(**{**recipe.sizes, **sizes})).save_pretrained(other)
    adapter = peft_types.make_adapter(kind, base, tmp_path / "adapter")
    peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(other), adapter)  # does not raise

    report = check(other, adapter, child=child)
    assert report.cause is not None
    assert report.cause.rule.code in codes


@pytest.mark.filterwarnings("ignore")
def test_names_without_prefix_are_not_judged_from_files_where_peft_converts_them(
    child: LoadingChild, tmp_path: Path
) -> None:
    import peft
    import tiny
    from safetensors.torch import load_file, save_file

    recipe = tiny.by_name("qwen3-moe")
    recipe.build().save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(task_type=recipe.task, target_modules=["q_proj"])
    adapted = peft.get_peft_model(recipe.build(), config)
    tiny.train_by_chance(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    weights = tmp_path / "adapter" / peft_types.WEIGHTS
    save_file({key.removeprefix("base_model.model."): one for key, one in load_file(weights).items()}, weights)

    assert check(tmp_path / "base", tmp_path / "adapter", child=child).verdict == "compatible"
    assert check(tmp_path / "base", tmp_path / "adapter", load="no", cache=False).verdict == "undetermined"
