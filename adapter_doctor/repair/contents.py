"""Planners for what is in the file: copies of base weights, trained modules that the config forgot, transposed factors."""

from __future__ import annotations

from collections import defaultdict

from adapter_doctor import knowledge
from adapter_doctor.facts import BaseCopies, BaseModules, Fit, Missing
from adapter_doctor.formats.adapter_keys import PREFIX, parse
from adapter_doctor.repair.plan import CannotMend, Case, Draft, Step
from adapter_doctor.repair.recipes import Recipe, transposed

_EMBEDDINGS = knowledge.embedding_layers()


def drop_copies(case: Case) -> Step | None:
    """Take out base weights that are the base's own, byte for byte; PEFT's own copies of embeddings may stay."""
    copies = case.facts.get(BaseCopies)
    if isinstance(copies, Missing):
        return None
    found = frozenset(
        key
        for key in copies.same
        if case.draft.steps or key.removesuffix(".weight").rpartition(".")[2] not in _EMBEDDINGS
    )
    if not found:
        return None
    what = f"take out {len(found)} tensors that are the base's own weights, byte for byte"
    return Step("AD220", what, drops=found)


def save_modules(case: Case) -> Step | None:
    """Name modules in `modules_to_save` whose whole weights are in the file and are not the base's: they were trained."""
    copies, fit, base = case.facts.get(BaseCopies), case.facts.get(Fit), case.facts.get(BaseModules)
    if isinstance(copies, Missing) or isinstance(fit, Missing) or isinstance(base, Missing) or not copies.different:
        return None
    found: dict[str, set[str]] = defaultdict(set)
    for key in copies.different:
        module, _, own = key.removeprefix(PREFIX).rpartition(".")
        found[module].add(own)
    for module, parameters in found.items():
        there = base.modules.get(module)
        if there is None or module in fit.targeted or set(there.parameters) != parameters:
            raise CannotMend(f"{len(copies.different)} tensors would replace base weights, and were not trained as whole modules")  # fmt: skip
    wanted = case.draft.config.get("modules_to_save")
    names = [one for one in wanted if isinstance(one, str)] if isinstance(wanted, list) else []
    added = sorted(_shortest(module, base) for module in found)
    what = f"name {', '.join(added[:4])} in `modules_to_save`: their trained weights are in the file"
    return Step("AD220", what, settings={"modules_to_save": names + added})


def _shortest(module: str, base: BaseModules) -> str:
    """The last part of a module's path, or the whole where PEFT (which asks `endswith`) would take others with it."""
    leaf = module.rpartition(".")[2]
    return leaf if [name for name in base.modules if name.endswith(leaf)] == [module] else module


def turn_factors(case: Case) -> Step | None:
    """Transpose LoRA's factors where all of them are stored the other way round."""
    base = case.facts.get(BaseModules)
    pairs = factor_pairs(case.draft)
    if isinstance(base, Missing) or not pairs:
        return None
    turned = 0
    for module, (down, up) in pairs.items():
        width = base.modules[module].width if module in base.modules else None
        if width is None or len(down.shape) != 2 or len(up.shape) != 2:
            return None
        straight = (up.shape[0], down.shape[1]) == width and down.shape[0] == up.shape[1]
        over = (up.shape[1], down.shape[0]) == width and down.shape[1] == up.shape[0]
        if not over:
            return None
        turned += not straight
    if not turned:
        return None
    keys = [key for key in case.draft.tensors if (one := parse(key)) and one.parameter in ("lora_A", "lora_B")]
    makes = {key: transposed(case.draft.tensors[key]) for key in keys}
    what = f"transpose {len(makes)} factors, which are stored as (in, r) and (r, out)"
    return Step("AD306", what, makes=makes, drops=frozenset(makes))


def factor_pairs(draft: Draft) -> dict[str, tuple[Recipe, Recipe]]:
    """LoRA's two factors by module, of the modules that have both."""
    found: dict[str, dict[str, Recipe]] = defaultdict(dict)
    for key, recipe in draft.tensors.items():
        one = parse(key)
        if one is not None and one.parameter in ("lora_A", "lora_B") and one.tail == ".weight":
            found[one.module][one.parameter] = recipe
    return {module: (pair["lora_A"], pair["lora_B"]) for module, pair in found.items() if len(pair) == 2}
