"""Facts that follow from other facts: modules by the checkpoint, the fit by forecast, the comparison, copied weights."""

from __future__ import annotations

from adapter_doctor.comparison import compare
from adapter_doctor.facts import (
    AdapterConfig,
    AdapterTensors,
    BaseCheckpoint,
    BaseConfig,
    BaseCopies,
    BaseFolder,
    BaseModules,
    Candidates,
    Comparison,
    Facts,
    Fit,
    Missing,
)
from adapter_doctor.formats.adapter_keys import PREFIX
from adapter_doctor.gather import tree_cache
from adapter_doctor.gather.load import modules_from
from adapter_doctor.gather.modules import modules_from_checkpoint
from adapter_doctor.identity import candidates
from adapter_doctor.loading.stage import tree_name
from adapter_doctor.placement import foretell
from adapter_doctor.sources import Source


def derive(
    facts: Facts,
    adapter: Source,
    base: Source | None,
    *,
    static: bool,
    cache: bool = False,
    model_class: str | None = None,
) -> Facts:
    """``facts`` with what follows from them. ``static``: nothing was loaded, so the fit is foretold."""
    return with_candidates(_derived(facts, adapter, base, static, cache, model_class))


def _derived(
    facts: Facts, adapter: Source, base: Source | None, static: bool, cache: bool, model_class: str | None
) -> Facts:
    facts = _with_modules(facts, static, cache, model_class)
    config, tensors, base_config = facts.get(AdapterConfig), facts.get(AdapterTensors), facts.get(BaseConfig)
    for why in (config, tensors, base_config):
        if isinstance(why, Missing):
            facts = facts.lacking(why, BaseModules, Fit)
    modules = facts.get(BaseModules)
    known = (
        isinstance(config, AdapterConfig)
        and isinstance(tensors, AdapterTensors)
        and isinstance(base_config, BaseConfig)
    )
    if static and known and isinstance(modules, BaseModules) and isinstance(facts.get(Fit), Missing):
        foretold = foretell(config, tensors, modules, base_config.model_type)  # type: ignore[arg-type, union-attr]
        facts = facts.lacking(foretold, Fit) if isinstance(foretold, Missing) else facts.adding(foretold)
    facts = facts.lacking(modules if isinstance(modules, Missing) else Missing("the fit is not known"), Fit)
    facts = _with_copies(facts, adapter, base)
    fit = facts.get(Fit)
    if known and isinstance(fit, Fit) and isinstance(modules, BaseModules):
        return facts.adding(compare(tensors, modules, fit, base_config, config))  # type: ignore[arg-type]
    return facts.lacking(fit if isinstance(fit, Missing) else Missing("the base's modules are not known"), Comparison)


def with_candidates(facts: Facts) -> Facts:
    """``facts`` with the known bases that the tensors fit, where there is no base or they do not fit it throughout."""
    folder, comparison = facts.get(BaseFolder), facts.get(Comparison)
    lost = isinstance(folder, BaseFolder) and not folder.exists
    misfit = isinstance(comparison, Comparison) and (
        comparison.clashes.get("width") or comparison.strays.get("absent") or comparison.strays.get("layer")
    )
    if not (lost or misfit):
        return facts.lacking(Missing("the base fits, so no other was looked for"), Candidates)
    return facts.adding(candidates(facts.get(AdapterTensors), facts.get(AdapterConfig)))


def _with_modules(facts: Facts, static: bool, cache: bool, model_class: str | None) -> Facts:
    """The base's modules, from a tree that an earlier load left or from the checkpoint's names."""
    config, base_config, tensors = facts.get(AdapterConfig), facts.get(BaseConfig), facts.get(AdapterTensors)
    if (
        isinstance(config, Missing)
        or isinstance(base_config, Missing)
        or isinstance(facts.get(BaseModules), BaseModules)
    ):
        return facts
    if static and cache and isinstance(tensors, AdapterTensors):
        tree = tree_cache.read(tree_name(facts, model_class))
        if tree is not None:
            return facts.adding(modules_from(tree, "cache"))
    checkpoint = facts.get(BaseCheckpoint)
    if isinstance(checkpoint, Missing):
        why = f"{checkpoint.why}, and without a load the config alone does not give the module names"
        return facts.lacking(Missing(why), BaseModules)
    derived = modules_from_checkpoint(base_config, checkpoint, config.task_type)
    return facts.lacking(derived, BaseModules) if isinstance(derived, Missing) else facts.adding(derived)


def _with_copies(facts: Facts, adapter: Source, base: Source | None) -> Facts:
    """Tensors of the adapter that would land on base weights, compared with the base's own bytes where both are here."""
    fit, tensors = facts.get(Fit), facts.get(AdapterTensors)
    if isinstance(fit, Missing) or isinstance(tensors, Missing):
        return facts.lacking(Missing("where the tensors go is not known"), BaseCopies)
    if not fit.overwriting:
        return facts.adding(BaseCopies())
    copies = {key: tensors.tensors[key] for key in fit.overwriting if key in tensors.tensors}
    checkpoint, weights = facts.get(BaseCheckpoint), adapter.path(tensors.file)
    folder = base.path("") if base is not None else None
    if isinstance(checkpoint, Missing) or folder is None or weights is None:
        return facts.adding(BaseCopies(unread=frozenset(copies)))
    from adapter_doctor.gather.values import compare_with_base

    names = {key: checkpoint_name(key, checkpoint) for key in copies}
    return facts.adding(compare_with_base(weights, copies, folder, checkpoint, names))


def checkpoint_name(key: str, checkpoint: BaseCheckpoint) -> str:
    """The name in the base's checkpoint of the weight that a key in the adapter would overwrite."""
    name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
    if name in checkpoint.tensors:
        return name
    ends = [one for one in checkpoint.tensors if one.endswith("." + name) or name.endswith("." + one)]
    return ends[0] if len(ends) == 1 else ""
