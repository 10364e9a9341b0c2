"""The search for renames: the smallest that fits, several for several parts, none where shapes differ, no guess between two."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from adapter_doctor import Report, check
from adapter_doctor.facts import BaseModules, Module
from adapter_doctor.loading.process import LoadingChild
from adapter_doctor.renames import renamed, search

WIDE = {"q_proj": (64, 64), "k_proj": (32, 64), "up_proj": (128, 64)}


def base_of(names: Iterable[str], wide: int = 1) -> BaseModules:
    modules = {"": Module("other")}
    for name in names:
        parts = name.split(".")
        modules |= {path: Module("other") for n in range(1, len(parts)) if (path := ".".join(parts[:n])) not in modules}
        out, into = WIDE[parts[-1]]
        modules[name] = Module("linear", {"weight": (out * wide, into * wide)})
    return BaseModules(modules, "skeleton", "SomeModel")


def paths(front: str, layers: int = 3) -> list[str]:
    return [f"{front}.{number}.self_attn.{leaf}" for number in range(layers) for leaf in WIDE]


def same_width(base: BaseModules) -> Any:
    return lambda path, name: base.modules[name].width == WIDE[path.rpartition(".")[2]]


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        ("layers", "model.layers", "`model.` added in front"),
        ("model.layers", "layers", "`model.` removed"),
        ("model.layers", "model.language_model.layers", "`model.` → `model.language_model.`"),
        (
            "language_model.model.layers",
            "model.language_model.layers",
            "`language_model.model.` → `model.language_model.`",
        ),
        ("transformer.h", "model.layers", "`transformer.h.` → `model.layers.`"),
        ("model.blocks", "model.layers", "`model.blocks.` → `model.layers.`"),
    ],
)
def test_smallest_rewrite_is_found(mine: str, theirs: str, said: str) -> None:
    base = base_of(paths(theirs))

    found = search(paths(mine), base, "", same_width(base))

    assert found is not None
    assert str(found) == said
    assert found.count == len(paths(mine))
    assert found.rivals == ()
    assert [renamed(path, found) for path in paths(mine)] == paths(theirs)


def test_parts_with_renames_of_their_own_get_them() -> None:
    base = base_of([*paths("model.language_model.layers"), *paths("model.vision_tower.layers", 2)])
    mine = [*paths("language_model.model.layers"), *paths("vision_tower.vision_model.layers", 2)]

    found = search(mine, base, "", same_width(base))

    assert found is not None
    assert found.count == len(mine)
    assert {renamed(path, found) for path in mine} <= set(base.modules)
    assert found.release == "transformers<4.52"
    assert " → `model.language_model.`, and `" in str(found) or ", and `language_model.model.`" in str(found)


def test_two_places_that_fit_alike_are_both_named_and_none_is_chosen() -> None:
    base = base_of([*paths("encoder.layers"), *paths("decoder.layers")])

    found = search(paths("layers"), base, "", same_width(base))

    assert found is not None
    assert {str(found), *found.rivals} == {"`encoder.` added in front", "`decoder.` added in front"}


def test_deeper_tower_of_the_same_widths_is_no_rival_where_names_decide() -> None:
    base = base_of([*paths("model.language_model.layers"), *paths("model.vision_tower.layers")])
    mine = paths("language_model.layers")

    found = search(mine, base, "", same_width(base))

    assert found is not None
    assert [renamed(path, found) for path in mine] == paths("model.language_model.layers")


def test_no_rewrite_is_better_than_one_that_changes_widths() -> None:
    base = base_of(paths("model.language_model.layers"), wide=2)

    assert search(paths("model.layers"), base, "", same_width(base)) is None


@pytest.mark.parametrize("mine", [[], ["x"], paths("model.layers", 1)[:1] + [f"a.{n}.b.c" for n in range(9)]])
def test_nothing_is_found_where_nothing_fits(mine: list[str]) -> None:
    base = base_of(paths("other.layers"))

    assert search(mine, base, "", same_width(base)) is None


# ---------------------------------------------------------------------------------- renames of transformers' own


@pytest.fixture(scope="module")
def child() -> Any:
    with LoadingChild() as started:
        yield started


def report(config: Any, widths: dict[str, tuple[int, int]], folder: Path, child: LoadingChild) -> Report:
    """The check of a LoRA with these modules on a skeleton of the base."""
    base, adapter = folder / "base", folder / "adapter"
    config.save_pretrained(base)
    adapter.mkdir()
    tensors = {}
    for path, (out, into) in widths.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = numpy.ones((2, into), numpy.float32)
        tensors[f"base_model.model.{path}.lora_B.weight"] = numpy.ones((out, 2), numpy.float32)
    save_file(tensors, adapter / "adapter_model.safetensors")
    leaves = sorted({path.rpartition(".")[2] for path in widths})
    raw = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": leaves, "base_model_name_or_path": ""}
    (adapter / "adapter_config.json").write_text(json.dumps(raw), "utf-8")
    return check(base, adapter, child=child, cache=False)


def test_qwen2_vl_names_of_before_4_52_are_known_with_their_release(child: LoadingChild, tmp_path: Path) -> None:
    from transformers import Qwen2VLConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    text = {**sizes, "intermediate_size": 48, "vocab_size": 160_000}
    config = Qwen2VLConfig(
        text_config=text, vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4}
    )
    config.architectures = ["Qwen2VLForConditionalGeneration"]
    # as transformers 4.51.3 names them
    widths = {
        f"model.layers.{n}.self_attn.{leaf}": (out, 32)
        for n in range(2)
        for leaf, out in (("q_proj", 32), ("v_proj", 16))
    }

    found = report(config, {**widths, "visual.blocks.0.attn.qkv": (96, 32)}, tmp_path, child)

    assert found.cause is not None
    assert found.cause.rule.code == "AD311", found.summary
    assert "pip install 'transformers<4.52'" in (found.cause.hits[0].fix or "")
    assert found.cause.hits[0].count == 10


def test_vit_names_of_transformers_4_are_known_with_their_release(child: LoadingChild, tmp_path: Path) -> None:
    from transformers import ViTConfig

    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32)
    config.architectures = ["ViTForImageClassification"]
    # as transformers 4.57.1 names them
    widths = {
        f"vit.encoder.layer.{n}.attention.attention.{leaf}": (32, 32) for n in range(2) for leaf in ("query", "value")
    }

    found = report(config, widths, tmp_path, child)

    assert found.cause is not None
    assert found.cause.rule.code in ("AD311", "AD301"), found.summary
    assert any("pip install 'transformers<5'" in (hit.fix or "") for one in found.findings for hit in one.hits)
