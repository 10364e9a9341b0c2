"""Serving engines: every feature in `engines.toml` has the outcome that its line says, and profiles are sound."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import patient as patients
import pytest
from patient import patient
from typer.testing import CliRunner

from adapter_doctor.cli import application
from adapter_doctor.doctor import check
from adapter_doctor.errors import DoctorError
from adapter_doctor.facts import OUTCOMES, Effect, Outlook, Serving
from adapter_doctor.knowledge import profiles
from adapter_doctor.knowledge.profiles import Answer, engines, numbers, profile, vllm_model
from adapter_doctor.render.serving import WORDS
from adapter_doctor.serving.case import TITLES
from adapter_doctor.serving.commands import rounded

FEATURES = tomllib.loads((Path(__file__).parent / "engines.toml").read_text("utf-8"))["feature"]
OWN_FORMAT = {"mlx-lm", "ollama"}  # they refuse a PEFT folder as it is; what is expected is about a converted one


def outlooks(changes: Mapping[str, Any], *asked: str) -> dict[str, Outlook]:
    serving = patient({"engines": list(asked), **changes}).get(Serving)
    assert isinstance(serving, Serving)
    return {one.engine: one for one in serving.outlooks if not one.adapter}


def told(outlook: Outlook) -> str:
    """Outcome and, where they belong to it, dropped tensors and factors, or the engine's message."""
    effects = [one for one in outlook.effects if not (one.trait == "peft-folder" and outlook.engine in OWN_FORMAT)]
    outcome = min((one.outcome for one in effects), key=OUTCOMES.index, default="served")
    if outcome == "wrong":
        return ": ".join(filter(None, [outcome, _how_wrong(effects, outlook.tensors)]))
    messages = [one.message for one in effects if one.outcome == outcome and one.message.replace("…", "").strip()]
    return f"{outcome}: {messages[0]}" if messages and outcome in ("refused", "late") else outcome


def _how_wrong(effects: list[Effect], tensors: int) -> str:
    dropped = min(tensors, sum(one.dropped for one in effects))
    said = [f"{dropped} dropped"] if dropped else []
    low, high = next((one.factors for one in effects if one.factors), (None, None))
    if low is not None and high is not None:
        said.append(f"x{low:.4g}" if abs(high - low) < 1e-9 else f"x{low:.4g}..{high:.4g}")
    return "; ".join(said)


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature["name"])
def test_every_engine_makes_of_a_feature_what_its_line_says(feature: Mapping[str, Any]) -> None:
    changes = {name: change for name, change in feature.items() if name not in ("name", "expect")}
    found = outlooks(changes, "all")

    assert {name: told(one) for name, one in found.items() if name != "diffusers"} == feature["expect"]
    assert found["diffusers"].outcome == "inapplicable"


def test_there_are_enough_features() -> None:
    assert len(FEATURES) >= 40
    assert len({feature["name"] for feature in FEATURES}) == len(FEATURES)


# --------------------------------------------------------------------------------------------------- the profiles


@pytest.mark.parametrize("engine", engines())
def test_profile_is_sound(engine: str) -> None:
    one = profile(engine)

    assert one.read
    assert one.read_from
    assert all(numbers(older) < numbers(newer) for older, newer in zip(one.read, one.read[1:], strict=False))
    assert {trait.partition(":")[0] for answer in one.answers for trait in answer.traits} <= set(TITLES)
    assert {answer.outcome for answer in one.answers} <= set(OUTCOMES)
    assert all(answer.evidence in ("ran", "source", "issue") and answer.source for answer in one.answers)
    edges = {edge for answer in one.answers for edge in (answer.since, answer.until)}
    edges |= {edge for scaling in one.scalings for edge in (scaling.since, scaling.until)}
    assert edges <= {"", *one.read}
    for version in one.read:
        answers = [answer for answer in one.answers if profiles._holds(answer, version)]
        traits = [trait for answer in answers for trait in answer.traits]
        assert len(traits) == len(set(traits)), f"two answers to one trait at {version}"


def test_words_for_outcomes_are_complete() -> None:
    assert set(WORDS) == set(OUTCOMES)


def test_an_answer_counts_only_between_its_releases() -> None:
    vllm = profile("vllm")
    before, after = vllm.answer("alora", "0.31.0"), vllm.answer("alora", "0.32.0")

    assert isinstance(before, Answer)
    assert isinstance(after, Answer)
    assert (before.outcome, after.outcome) == ("wrong", "refused")


@pytest.mark.parametrize(("version", "near"), [
    ("0.33.0", ("0.33.0",)), ("0.34.0", ("0.33.0",)), ("0.12.0", ("0.10.2", "0.14.1")), ("0.4.0", ()), ("main", ("0.33.0",)),
])  # fmt: skip
def test_releases_that_were_read_speak_for_those_beside_them(version: str, near: tuple[str, ...]) -> None:
    assert profile("vllm").neighbours(version) == near


def test_vllm_table_knows_what_it_was_made_for() -> None:
    llama, mistral, gpt_oss = (vllm_model(f"{name}ForCausalLM") for name in ("Llama", "Mistral", "GptOss"))

    assert llama is not None
    assert mistral is not None
    assert gpt_oss is not None
    assert llama.embeddings == ("embed_tokens", "lm_head")
    assert mistral.embeddings == ()
    assert gpt_oss.stacked_experts
    assert vllm_model("FalconForCausalLM") == profiles.VllmModel(lora=False)
    assert vllm_model("LlamaForSequenceClassification") == llama
    assert vllm_model("NovelForCausalLM") is None


def test_traits_that_are_not_in_a_profile_are_never_fine() -> None:
    found = outlooks({"config": {"layer_replication": [[0, 4]]}}, "tensorrt-llm")["tensorrt-llm"]

    assert found.outcome == "unknown"
    assert "has not been established" in found.effects[-1].why


# --------------------------------------------------------------------------------------------- what to paste


@pytest.mark.parametrize(("rank", "flag"), [(1, 1), (5, 8), (8, 8), (48, 64), (300, 320), (512, 512), (513, None)])
def test_ranks_are_rounded_up_to_what_vllm_lets_one_choose(rank: int, flag: int | None) -> None:
    assert rounded(rank, profile("vllm").ranks) == flag


def test_commands_hold_what_the_adapter_needs() -> None:
    changes = {"config": {"r": 48, "lora_alpha": 96, "use_rslora": True}, "retrained": True}
    found = outlooks(changes, "vllm", "llama.cpp", "openvino-genai", "sglang")

    assert "--max-lora-rank 64 " in found["vllm"].commands[0]
    assert found["llama.cpp"].commands[-1].endswith(f":{48**0.5:.6g}")
    assert found["openvino-genai"].commands[0].endswith(f"alpha={96 / 48**0.5:.6g})")
    assert "--max-lora-rank 48 --lora-target-modules k_proj o_proj q_proj v_proj" in found["sglang"].commands[0]


def test_plain_lora_needs_no_factor() -> None:
    assert (
        outlooks({}, "llama.cpp")["llama.cpp"].commands[-1] == "llama-server -m BASE.gguf --lora tiny-llama-lora.gguf"
    )


def test_names_that_a_stranger_chose_are_quoted() -> None:
    found = outlooks({"folder": {"reference": "there/x; rm -rf ~"}}, "vllm", "merge")

    assert "'x; rm -rf ~'='there/x; rm -rf ~'" in found["vllm"].commands[0]
    assert "'there/x; rm -rf ~'" in found["merge"].commands[0]


def test_adapters_served_together_get_one_command() -> None:
    other = {
        "folder": {"reference": "other/chat"},
        "config": {"r": 16, "target_modules": ["gate_proj"]},
        "retrained": True,
    }
    found = outlooks({"beside": [other]}, "vllm", "sglang")

    assert "--max-lora-rank 16 --max-loras 2" in found["vllm"].commands[0]
    assert "chat=other/chat" in found["vllm"].commands[0]
    assert "--lora-target-modules gate_proj k_proj o_proj q_proj v_proj" in found["sglang"].commands[0]


# ------------------------------------------------------------------------------------------- the command line


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(application(), ["check", *arguments, "--load", "no", "--no-cache"])
    return result.exit_code, result.output


def test_without_for_nothing_is_said_about_engines(tmp_path: Path) -> None:
    base, adapter = patients.write(tmp_path)
    report = check(base, adapter, load="no", cache=False)

    assert report.verdict == "compatible"
    assert report.serving == ()
    assert all(one.waived for one in report.diagnosis.unknown if one.rule.code.startswith("AD7"))


def test_engine_that_serves_wrongly_makes_the_check_fail(tmp_path: Path) -> None:
    base, adapter = patients.write(tmp_path)
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), "use_rslora": True}), encoding="utf-8")

    assert run(str(base), str(adapter), "--for", "vllm")[0] == 0
    code, output = run(str(base), str(adapter), "--for", "sglang")
    assert code == 1
    assert "16 of 16 modules are scaled by 0.3536 of what was trained" in " ".join(output.split())


def test_version_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    base, adapter = patients.write(tmp_path)
    code, output = run(str(base), str(adapter), "--for", "vllm@newest")

    assert (code, "'newest' is no version of vLLM" in output) == (2, True)
    assert run(str(base), str(adapter), "--for", "vllm@0.33.0rc1")[0] == 0


def test_all_engines_are_a_line_each_and_do_not_judge(tmp_path: Path) -> None:
    base, adapter = patients.write(tmp_path)
    code, output = run(str(base), str(adapter), "--for", "all")

    assert code == 0
    assert all(re.search(rf"^  {re.escape(engine)} +\S+ +\S", output, re.M) for engine in engines())


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_engines_stand_in_a_page_and_in_a_comment_too(form: str, tmp_path: Path) -> None:
    base, adapter = patients.write(tmp_path)
    _, without = run(str(base), str(adapter), "--format", form)
    _, output = run(str(base), str(adapter), "--format", form, "--for", "all", "--for", "vllm")

    assert "In serving engines" not in without
    assert all(re.search(rf"^(<pre>)?{re.escape(engine)} +\S+ +\S", output, re.M) for engine in engines())
    assert "vllm serve" in output


def test_engines_are_asked_without_heavy_libraries_and_at_once(tmp_path: Path) -> None:
    base, adapter = patients.write(tmp_path)
    program = (
        "import sys, time; from adapter_doctor.doctor import check\n"
        "def spent(**more):\n"
        "    start = time.process_time()\n"
        "    check(sys.argv[1], sys.argv[2], load='no', cache=False, **more)\n"
        "    return time.process_time() - start\n"
        "plain = spent(); print(spent(engines=['all']) - min(plain, spent()), *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, base, adapter], capture_output=True, text=True, check=True)
    more, *modules = done.stdout.split()

    assert float(more) < 0.6  # 0.16 measured; a busy machine takes longer
    assert not {"torch", "transformers", "peft", "vllm"} & set(modules)


def test_cannot_tell_ends_with_3(tmp_path: Path) -> None:
    base, adapter = patients.write(tmp_path)

    assert run(str(base), str(adapter), "--for", "vllm@0.4.0")[0] == 3


def test_json_has_every_outlook(tmp_path: Path) -> None:
    base, adapter = patients.write(tmp_path)
    _, output = run(str(base), str(adapter), "--for", "all", "--format", "json")
    serving = json.loads(output)["serving"]

    assert [one["engine"] for one in serving] == list(engines())
    assert {one["outcome"] for one in serving} <= set(OUTCOMES)


@pytest.mark.parametrize("alpha", ["0", "1e308", "1e400", "NaN", "1" + "0" * 400])
def test_alphas_that_make_no_scaling_end_in_a_verdict(alpha: str, tmp_path: Path) -> None:
    base, adapter = patients.write(tmp_path)
    config = adapter / "adapter_config.json"
    raw = json.loads(config.read_text("utf-8")) | {"lora_alpha": "ALPHA"}
    for pattern in ({}, {"q_proj": 16, "k_proj": 16, "v_proj": 16, "o_proj": 16}):
        config.write_text(json.dumps(raw | {"alpha_pattern": pattern}).replace('"ALPHA"', alpha), encoding="utf-8")
        for engine in engines():
            found = CliRunner().invoke(
                application(),
                ["check", str(base), str(adapter), "--load", "no", "--offline", "--for", engine, "--format", "json"],
            )

            assert isinstance(found.exception, SystemExit | None), (engine, pattern, found.exception)
            assert json.loads(found.stdout)["serving"][0]["outcome"] in OUTCOMES
            if alpha == "NaN" and not pattern and engine in ("vllm", "sglang"):
                assert json.loads(found.stdout)["serving"][0]["outcome"] == "unknown"


def test_unknown_engine_is_wrong_usage(tmp_path: Path) -> None:
    base, adapter = patients.write(tmp_path)

    assert run(str(base), str(adapter), "--for", "vlm")[0] == 2
    with pytest.raises(DoctorError, match="no engine is called 'vlm'"):
        check(base, adapter, load="no", engines=["vlm"])
    with pytest.raises(DoctorError, match="none is named"):
        check(base, adapter, load="no", beside=[adapter])


def test_matrix_in_the_readme_is_up_to_date() -> None:
    script = Path(__file__).parents[1] / "scripts" / "engine_matrix.py"

    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
