"""Why a state dict does not fit a model, from the names and shapes that `load_state_dict` complained of.

Only what disagrees is listed: what both sides have with one shape is never named, so counts of the whole are not known.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from adapter_doctor import knowledge
from adapter_doctor.comparison import unwrapped
from adapter_doctor.facts import BaseModules, Clash, Module, Rename, StateDictMismatch
from adapter_doctor.formats.adapter_keys import PREFIX, WRAPPERS
from adapter_doctor.formats.adapter_keys import parse as adapter_key
from adapter_doctor.formats.buffers import BUFFERS
from adapter_doctor.formats.training_checkpoint import BESIDE_THE_MODEL, MODEL_ENTRIES, OPTIMIZER_ENTRIES
from adapter_doctor.renames import renamed, search
from adapter_doctor.texts.state_dict_error import Listed

_HEADS = frozenset(
    {
        "lm_head", "score", "classifier", "qa_outputs", "cls", "fc", "head", "heads", "v_head", "value_head",
        "output_projection", "classification_head", "embed_out", "generator_lm_head", "regression_head", "reward_head",
        "out_proj", "pooler", "summary", "qa_output", "seq_relationship", "span_classifier", "linear_head",
    }
)  # fmt: skip
_EMBEDDINGS = frozenset({
    "embed_tokens", "wte", "word_embeddings", "embed_in", "embed_out", "lm_head", "output_layer", "shared",
    "tok_embeddings", "token_embedding", "token_embd", "embeddings", "decoder", "output",
})  # fmt: skip
_LAYER = re.compile(r"^(.*?\.|)(\d{1,6})(\..+)$")


def reasons_for(listed: Listed) -> StateDictMismatch:
    """Each listed name under one reason; see :class:`adapter_doctor.facts.StateDictMismatch`."""
    found: dict[str, tuple[str, ...]] = {}
    rename: Rename | None = None
    layers: tuple[int, int] | None = None
    missing = [name for name in listed.missing if name not in listed.clashes]
    unexpected, clashes = list(listed.unexpected), dict(listed.clashes)
    around = _training_checkpoint(unexpected)
    if around:
        found[around] = tuple(unexpected)
        unexpected, missing = [], []
    missing, unexpected = _adapters(listed.class_name, missing, unexpected, found)
    if missing and unexpected:
        rename, old, new = _rename(missing, unexpected)
        if rename is not None:
            kind = "prefix" if not rename.steps and _one_ends_other(rename) else "renamed"
            found[kind] = old
            unexpected = [name for name in unexpected if name not in set(old)]
            missing = [name for name in missing if name not in new]
    missing = _take(found, "buffers", missing, lambda name: bool(BUFFERS.search(name)))
    unexpected = _take(found, "buffers", unexpected, lambda name: bool(BUFFERS.search(name)))
    for names, ours in ((missing, True), (unexpected, False)):
        count = _short_by(names, unexpected if ours else missing)
        if count is not None:
            found["layers"] = tuple(names)
            layers = count if ours else count[::-1]
            names.clear()
    for name, clash in clashes.items():
        reason = _clash_reason(name, clash)
        found[reason] = (*found.get(reason, ()), name)
    if missing or unexpected:
        if all(map(is_head, (*missing, *unexpected))):
            found["head"] = (*found.get("head", ()), *missing, *unexpected)
            missing = unexpected = []
        elif len(missing) > 3 and len(unexpected) > 3 and "prefix" not in found and "renamed" not in found:
            found["architecture"] = (*unexpected, *missing)
            missing = unexpected = []
    found |= {reason: tuple(names) for reason, names in (("missing", missing), ("unexpected", unexpected)) if names}
    return StateDictMismatch(
        listed.class_name, tuple(listed.missing), tuple(listed.unexpected), tuple(listed.clashes.values()), listed.cut,
        found, rename, layers,
    )  # fmt: skip


def _take(found: dict[str, tuple[str, ...]], reason: str, names: list[str], is_one: Callable[[str], bool]) -> list[str]:
    taken = tuple(name for name in names if is_one(name))
    if taken:
        found[reason] = (*found.get(reason, ()), *taken)
    return [name for name in names if not is_one(name)]


# ------------------------------------------------------------------------------------- what was passed, and into what


def _training_checkpoint(unexpected: Sequence[str]) -> str | None:
    """``optimizer`` or ``checkpoint`` where the keys are those of a saved dict around a state dict, not of tensors."""
    names = set(unexpected)
    if names and names <= OPTIMIZER_ENTRIES | {"base_optimizer_state"} and names & OPTIMIZER_ENTRIES:
        return "optimizer"
    tops = {name for name in names if "." not in name}
    if (
        tops == names
        and names & BESIDE_THE_MODEL
        and names <= BESIDE_THE_MODEL | set(MODEL_ENTRIES) | OPTIMIZER_ENTRIES
    ):
        return "checkpoint"
    if (
        tops == names
        and names & set(MODEL_ENTRIES)
        and len(names) <= 12
        and (names & BESIDE_THE_MODEL or len(names) == 1)
    ):
        return "checkpoint"
    return None


def _adapters(
    class_name: str, missing: list[str], unexpected: list[str], found: dict[str, tuple[str, ...]]
) -> tuple[list[str], list[str]]:
    """Take out what shows an adapter's tensors in a plain model's place, or the other way round."""
    theirs = [name for name in unexpected if adapter_key(name)]
    ours = [name for name in missing if adapter_key(name)]
    if theirs and not ours:
        found["adapter"] = tuple(theirs)
        rest = [name for name in unexpected if not adapter_key(name)]
        plain = {_plain(name) for name in rest}
        return [name for name in missing if _plain(name) not in plain and not rest], []
    if ours and not theirs:
        found["no-adapter"] = tuple(ours)
        plain = {_plain(name) for name in unexpected}
        ours_plain = {_plain(name) for name in missing}
        return (
            [name for name in missing if not adapter_key(name) and _plain(name) not in plain],
            [name for name in unexpected if _plain(name) not in ours_plain],
        )
    in_peft = class_name.startswith("Peft") or all(name.startswith(PREFIX) for name in missing)
    if missing and not unexpected and in_peft:
        found["frozen"] = tuple(missing)
        return [], []
    return missing, unexpected


def _plain(name: str) -> str:
    """A tensor's name without PEFT's prefix, the level around adapted layers, and a wrapper's segments."""
    name = name.removeprefix(PREFIX).removeprefix("base_model.")
    return unwrapped(name.replace(".base_layer.", ".").replace(".original_module.", "."))


# ---------------------------------------------------------------------------------------------------------- renames


def _rename(missing: list[str], unexpected: list[str]) -> tuple[Rename | None, tuple[str, ...], set[str]]:
    """One rewrite of the names, the state dict's names that it explains, and the model's names that they become."""
    there = set(missing)
    bare = {name: unwrapped(name) for name in unexpected}
    hits = {name: new for name, new in bare.items() if new != name and new in there}
    if len(hits) * 2 > len(unexpected):
        inside = [part for part in next(iter(hits)).split(".") if part in WRAPPERS]
        return Rename(inside[0], "", len(hits)), tuple(hits), set(hits.values())
    wrapped = {unwrapped(name): name for name in missing if unwrapped(name) != name}
    hits = {name: wrapped[name] for name in unexpected if name in wrapped}
    if len(hits) * 2 > len(unexpected):
        inside = [part for part in next(iter(hits.values())).split(".") if part in WRAPPERS]
        return Rename("", inside[0], len(hits)), tuple(hits), set(hits.values())
    few = unexpected[:2000]
    names = BaseModules({name: Module("other") for name in missing}, "checkpoint")
    rename = search(few, names, "", _any)
    if rename is None:
        return None, (), set()
    hits = {name: new for name in unexpected if (new := renamed(name, rename)) != name and new in there}
    whole = len(hits) == len(unexpected) == len(missing)
    if len(hits) < 2 and not whole:
        return None, (), set()
    return Rename(rename.old, rename.new, len(hits), rename.front, rename.steps), tuple(hits), set(hits.values())


def _any(path: str, module: str) -> bool:  # noqa: ARG001  # the message tells no shapes of these
    return True


def _one_ends_other(rename: Rename) -> bool:
    """Whether one side is the other with levels in front or behind: the same part of the model, hung elsewhere."""
    old, new = rename.old.split("."), rename.new.split(".")
    return not rename.old or not rename.new or old[-len(new) :] == new or new[-len(old) :] == old


# -------------------------------------------------------------------------------------------------- parts of a model


def _short_by(names: Iterable[str], others: Sequence[str]) -> tuple[int, int] | None:
    """(layers there, layers wanted) where ``names`` are whole layers at the end of one list, and nothing else."""
    names = list(names)
    if not names or others:
        return None
    layers: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        match = _LAYER.match(name)
        if match is None:
            return None
        layers[match[1]][int(match[2])].add(match[3])
    counts = set()
    for numbers in layers.values():
        first, last = min(numbers), max(numbers)
        kinds = Counter(frozenset(tails) for tails in numbers.values())
        if first == 0 or set(numbers) != set(range(first, last + 1)) or len(kinds) > 2:
            return None
        counts.add((first, last + 1))
    return counts.pop() if len(counts) == 1 else None


def is_head(name: str) -> bool:
    """Whether a tensor belongs to a head on top of the model, by its name."""
    parts = name.split(".")
    heads = _HEADS | set(knowledge.classifier_heads())
    return any(part in heads for part in (parts[:2] if len(parts) > 2 else parts[:1])) or parts[-2:-1] == ["lm_head"]


def _clash_reason(name: str, clash: Clash) -> str:
    apart = [one != other for one, other in zip(clash.in_file, clash.in_model, strict=False)]
    if "lora" in name.lower() and len(clash.in_file) == len(clash.in_model) == 2 and sum(apart) == 1:
        return "rank"
    rows_only = clash.in_file[1:] == clash.in_model[1:] and len(clash.in_file) == len(clash.in_model)
    parts = name.split(".")
    holder = parts[-2] if len(parts) > 1 else parts[0]
    vocabulary = holder in _EMBEDDINGS | set(knowledge.embedding_layers())
    big = max((*clash.in_file[:1], *clash.in_model[:1]), default=0) > 1000
    if rows_only and vocabulary and (len(clash.in_file) > 1 or holder == "lm_head" or big):
        return "rows"
    if rows_only and is_head(name):
        return "head"
    return "width"
