"""Planner for adapters of other libraries: the same mathematics under other names, turned round and scaled otherwise."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from adapter_doctor.facts import BaseConfig, BaseFolder, BaseModules, Missing
from adapter_doctor.formats.adapter_keys import PREFIX
from adapter_doctor.formats.declared_ranks import pattern_for
from adapter_doctor.repair.plan import CannotMend, Case, Hopeless, Step
from adapter_doctor.repair.recipes import Permuted, Recipe, transposed


@dataclass
class Factors:
    """One module's LoRA as PEFT has it: ``down`` (r, in), ``up`` (out, r), what their product is multiplied by."""

    down: Recipe | None = None
    up: Recipe | None = None
    scaling: float | None = None
    magnitude: Recipe | None = None


@dataclass(frozen=True)
class Converted:
    """An adapter taken out of another library's format; ``whole`` are tensors that stand in for the base's own."""

    library: str
    factors: Mapping[str, Factors]
    whole: Mapping[str, Recipe]


def convert(case: Case) -> Step | None:
    """Rewrite another library's LoRA as PEFT's."""
    base = case.facts.get(BaseModules)
    if isinstance(base, Missing) or any(key.startswith(PREFIX) for key in case.draft.tensors):
        return None
    try:
        for reader in (_mlx, _torchtune, _mistral, _kohya):
            found = reader(case)
            if found is not None:
                return _step(case, found, base)
    except CannotMend as why:
        raise Hopeless(str(why)) from None
    except ArithmeticError:
        raise Hopeless("its alpha, scale and rank make a scaling that is no finite number") from None
    return None


def _step(case: Case, found: Converted, base: BaseModules) -> Step:
    makes: dict[str, Recipe] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for module, one in found.factors.items():
        if one.down is None or one.up is None or one.scaling is None:
            raise CannotMend(f"{module} has one factor of two, or no scaling")
        if not math.isfinite(one.scaling):
            raise CannotMend(f"{module} would be scaled by {one.scaling}, which is no finite number")
        if len(one.down.shape) < 2 or len(one.up.shape) < 2 or one.down.shape[0] != one.up.shape[1]:
            raise CannotMend(f"the factors of {module} are {list(one.down.shape)} and {list(one.up.shape)}, no pair of matrices")  # fmt: skip
        there = base.modules.get(module)
        kind = "lora_embedding_" if there is not None and there.kind == "embedding" else "lora_"
        tail = "" if kind == "lora_embedding_" else ".weight"
        makes[f"{PREFIX}{module}.{kind}A{tail}"] = one.down
        makes[f"{PREFIX}{module}.{kind}B{tail}"] = one.up
        if one.magnitude is not None:
            makes[f"{PREFIX}{module}.lora_magnitude_vector"] = one.magnitude
        ranks[module] = one.down.shape[0]
        alphas[module] = one.scaling * ranks[module]
    makes |= {f"{PREFIX}{name}": recipe for name, recipe in found.whole.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": _task(case),
        "base_model_name_or_path": _base_name(case),
        "r": int(rank),
        "lora_alpha": _number(alpha),
        "rank_pattern": pattern_for(ranks, [one for one, value in ranks.items() if value != rank], {}),
        "alpha_pattern": {one: _number(value) for one, value in alphas.items() if value != alpha},
        "target_modules": [],  # the tensors decide them: `cover_tensors` comes next
        "modules_to_save": sorted({name.rpartition(".")[0] for name in found.whole}) or None,
        "use_dora": any(one.magnitude is not None for one in found.factors.values()),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    return Step(
        "AD208",
        f"rewrite {len(case.draft.tensors)} tensors of {found.library} as PEFT's: {len(ranks)} modules,"
        f" rank {settings['r']}, alpha {settings['lora_alpha']}",
        makes=makes,
        drops=frozenset(case.draft.tensors),
        settings=settings,
        unset=frozenset(case.draft.config),
    )


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def _task(case: Case) -> str | None:
    base = case.facts.get(BaseConfig)
    names = base.architectures if isinstance(base, BaseConfig) else ()
    endings = {"ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM", "ForConditionalGeneration": "SEQ_2_SEQ_LM"}
    seq2seq = isinstance(base, BaseConfig) and base.raw.get("is_encoder_decoder")
    for name in names:
        for ending, task in endings.items():
            if name.endswith(ending) and (task != "SEQ_2_SEQ_LM" or seq2seq):
                return task
    return None


def _base_name(case: Case) -> str | None:
    base = case.facts.get(BaseFolder)
    named = case.draft.config.get("base_model_name_or_path") or case.draft.config.get("model")
    if isinstance(named, str) and named:
        return named
    return base.reference if isinstance(base, BaseFolder) else None


def _read(
    case: Case, pattern: str, place: Callable[[re.Match[str]], tuple[str, str, Recipe] | None]
) -> dict[str, Factors] | None:
    """The factors by module, where most of the names follow ``pattern``; None where they do not.

    Raises:
        CannotMend: some of the names do not follow it.
    """
    matches = {key: re.fullmatch(pattern, key) for key in case.draft.tensors}
    followed = sum(match is not None for match in matches.values())
    if not followed or followed * 2 <= len(matches):
        return None
    found: dict[str, Factors] = defaultdict(Factors)
    for key, match in matches.items():
        placed = place(match) if match is not None else None
        if placed is None:
            raise CannotMend(f"{key[:100]!r} is no part of this format that PEFT has a place for")
        module, part, recipe = placed
        setattr(found[module], part, recipe)
    return dict(found)


# ------------------------------------------------------------------------------------------------------------ MLX


def _mlx(case: Case) -> Converted | None:
    """mlx-lm: y + scale · (x @ lora_a) @ lora_b, with lora_a (in, r) and lora_b (r, out); an embedding's likewise.

    `scale` stands in `lora_parameters`; before mlx-lm 0.19 it was multiplied by alpha / r (mlx_lm/tuner/lora.py).
    """
    parts = {"lora_a": "down", "lora_b": "up", "m": "magnitude"}

    def place(match: re.Match[str]) -> tuple[str, str, Recipe] | None:
        recipe = case.draft.tensors[match[0]]
        if match[2] == "m":
            return match[1], "magnitude", recipe
        return (match[1], parts[match[2]], transposed(recipe)) if len(recipe.shape) == 2 else None

    found = _read(case, r"(.+)\.(lora_a|lora_b|m)", place)
    if found is None:
        return None
    settings = case.draft.config.get("lora_parameters")
    scale = settings.get("scale") if isinstance(settings, Mapping) else None
    if not isinstance(settings, Mapping) or not isinstance(scale, (int, float)) or isinstance(scale, bool):
        raise CannotMend("`lora_parameters` with its `scale` is not in adapter_config.json, and no scaling is guessed")
    alpha = settings.get("alpha")
    for one in found.values():
        older = isinstance(alpha, (int, float)) and one.down is not None
        one.scaling = scale * alpha / one.down.shape[0] if older else float(scale)  # type: ignore[operator, union-attr]
    return Converted("mlx-lm", found, {})


# ------------------------------------------------------------------------------------------ torchtune and Mistral

_TORCHTUNE = {
    "attn.q_proj": "self_attn.q_proj", "attn.k_proj": "self_attn.k_proj", "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj", "mlp.w1": "mlp.gate_proj", "mlp.w2": "mlp.down_proj",
    "mlp.w3": "mlp.up_proj",
}  # fmt: skip
_MISTRAL = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
# Whose q_proj and k_proj torchtune holds with the halves of each head interleaved, as Meta's own code does
# (torchtune/models/convert_weights.py, gemma/_convert_weights.py); the others it takes as they are.
_INTERLEAVED, _AS_THEY_ARE = {"llama", "mistral", "gemma"}, {"qwen2", "qwen3"}


def _torchtune(case: Case) -> Converted | None:
    """torchtune's own checkpoint (`adapter_N.pt`): alpha / r, and another order of rows in q and k for some models."""
    model_type = _model_type(case)
    parts = {"lora_a.weight": "down", "lora_b.weight": "up", "magnitude": "magnitude"}

    def place(match: re.Match[str]) -> tuple[str, str, Recipe] | None:
        recipe, part = case.draft.tensors[match[0]], parts[match[3]]
        if match[2] == "output":
            return "lm_head", part, recipe
        name = _TORCHTUNE.get(match[2])
        if name is None or match[1] is None:
            return None
        turned = part == "up" and name.endswith(("q_proj", "k_proj")) and model_type in _INTERLEAVED
        return f"model.{match[1]}{name}", part, _halved(case, name, recipe) if turned else recipe

    found = _read(case, r"(layers\.\d+\.)?([\w.]+?)\.(lora_a\.weight|lora_b\.weight|magnitude)", place)
    if found is None:
        return None
    if model_type not in _INTERLEAVED | _AS_THEY_ARE:
        raise CannotMend(
            f"how torchtune orders the weights of a {model_type or 'base of unknown type'} is not known here"
        )
    rank, alpha = case.draft.config.get("r"), case.draft.config.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, (int, float)) or rank < 1:
        raise CannotMend(
            "torchtune's adapter_config.json with `r` and `lora_alpha` is not there, and no alpha is guessed"
        )
    for one in found.values():
        one.scaling = alpha / rank
    return Converted("torchtune", found, {})


def _mistral(case: Case) -> Converted | None:
    """mistral-finetune's `lora.safetensors`: scaling in `params.json`, Meta's order of rows in q and k, norms whole."""
    whole: dict[str, Recipe] = {}
    tensors = case.draft.tensors
    for key in list(tensors):
        norm = re.fullmatch(r"(layers\.\d+)\.(attention_norm|ffn_norm)\.weight|norm\.weight", key)
        if norm is not None:
            name = f"model.{norm[1]}.{_MISTRAL[norm[2]]}.weight" if norm[1] else "model.norm.weight"
            whole[name] = tensors[key]

    def place(match: re.Match[str]) -> tuple[str, str, Recipe] | None:
        recipe, part = tensors[match[0]], "down" if match[3] == "A" else "up"
        if match[2] == "output":
            return "lm_head", part, recipe
        name = _MISTRAL.get(match[2])
        if name is None or match[1] is None:
            return None
        turned = part == "up" and name.endswith(("q_proj", "k_proj"))
        return f"model.{match[1]}{name}", part, _halved(case, name, recipe) if turned else recipe

    without = {key: recipe for key, recipe in tensors.items() if "norm." not in key}
    pattern = r"(layers\.\d+\.)?((?:attention|feed_forward)\.w[qkvo123]|output)\.lora_([AB])\.weight"
    if not any(re.fullmatch(pattern, key) for key in without):
        return None
    found = _read(replace(case, draft=replace(case.draft, tensors=without)), pattern, place)
    params = case.draft.beside.get("params.json", {})
    lora = params.get("lora") if isinstance(params, Mapping) else None
    scaling = lora.get("scaling") if isinstance(lora, Mapping) else None
    if not isinstance(scaling, (int, float)) or isinstance(scaling, bool):
        raise CannotMend("params.json with `lora.scaling` is not beside the weights, and no scaling is guessed")
    for one in (found or {}).values():
        one.scaling = float(scaling)
    return None if found is None else Converted("mistral-finetune", found, whole)


def _halved(case: Case, name: str, up: Recipe) -> Recipe:
    """Rows from pairs side by side, (head, half, 2), to the two halves of each head that transformers rotates."""
    base = case.facts.get(BaseConfig)
    key = "num_key_value_heads" if name.endswith("k_proj") else "num_attention_heads"
    heads = base.number(key, "num_attention_heads") if isinstance(base, BaseConfig) else None
    if len(up.shape) != 2:
        raise CannotMend(f"a factor of {name} is {list(up.shape)}, no matrix")
    rows, rank = up.shape
    if not heads or rows % (2 * heads):
        raise CannotMend(f"{name} has {rows} rows, which its {heads} heads do not divide")
    return Permuted(up, (heads, rows // heads // 2, 2, rank), (0, 2, 1, 3), (rows, rank))


def _model_type(case: Case) -> str:
    base = case.facts.get(BaseConfig)
    return base.model_type if isinstance(base, BaseConfig) else ""


# ----------------------------------------------------------------------------------------- kohya and diffusers

_PARTS = {
    "lora_down.weight": "down", "lora_up.weight": "up", "lora.down.weight": "down", "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down", "lora_linear_layer.up.weight": "up", "lora_A.weight": "down",
    "lora_B.weight": "up", "alpha": "alpha",
}  # fmt: skip
_OWNERS = r"(?:lora_)?(?:unet|text_encoder(?:_\d)?|te\d?|transformer|prior_unet|prior)[_.]|lora_"


def _kohya(case: Case) -> Converted | None:
    """kohya's and diffusers' names: `lora_te_…` with underscores for dots, or `text_encoder.…`; alpha is a tensor.

    Without one the update is taken as it is (alpha = r), as both libraries do.
    """
    endings = "|".join(re.escape(part) for part in _PARTS)
    matches = {key: re.fullmatch(rf"(.+)\.({endings})", key) for key in case.draft.tensors}
    ours = [key for key, match in matches.items() if match is not None]
    marked = [key for key in ours if ".lora_A." not in key and ".lora_B." not in key]
    if not marked and "peft_type" not in case.draft.config:  # with PEFT's config these are PEFT's names, and its alpha
        marked = [key for key in ours if re.match(_OWNERS, key)]
    if not marked or len(ours) * 2 <= len(matches):
        return None
    base = case.facts.get(BaseModules)
    names = _flat_names(() if isinstance(base, Missing) else base.modules)
    found: dict[str, Factors] = defaultdict(Factors)
    alphas: dict[str, float] = {}
    for key, match in matches.items():
        module = _module_of(match[1], names) if match is not None else None
        if match is None or module is None:
            raise CannotMend(f"{key[:100]!r} belongs to no module of this base")
        part = _PARTS[match[2]]
        if part != "alpha":
            setattr(found[module], part, case.draft.tensors[key])
        elif key in case.draft.scalars:
            alphas[module] = case.draft.scalars[key]
        else:
            raise CannotMend(f"the alpha {key[:100]!r} could not be read")
    for module, one in found.items():
        rank = one.down.shape[0] if one.down is not None and one.down.shape else 1
        one.scaling = alphas.get(module, float(rank)) / max(rank, 1)
    return Converted("kohya or diffusers", dict(found), {})


def _flat_names(modules: Iterable[str]) -> dict[str, str | None]:
    """Module names by their form with underscores for dots; None where two have the same."""
    found: dict[str, str | None] = {}
    for name in modules:
        flat = name.replace(".", "_")
        found[flat] = None if flat in found else name
    return found


def _module_of(path: str, names: Mapping[str, str | None]) -> str | None:
    """The one module that a path can mean, with or without the name of the part of the pipeline in front."""
    flat = path.replace(".", "_")
    short = re.sub(rf"^(?:{_OWNERS})", "", path).replace(".", "_")
    for one in (flat, short):
        if names.get(one):
            return names[one]
    ends = [name for other, name in names.items() if name and (other.endswith(f"_{short}") or short.endswith(f"_{other}")) and "_" in other]  # fmt: skip
    return ends[0] if len(ends) == 1 else None
