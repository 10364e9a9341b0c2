"""What an adapter is: the data of `inspect`, put together from facts. No rule is asked and nothing is judged."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from adapter_doctor.facts import (
    AdapterConfig,
    AdapterFolder,
    AdapterTensors,
    BaseConfig,
    BaseFolder,
    ConfigFile,
    Dimension,
    Facts,
    Missing,
    WeightsFiles,
)
from adapter_doctor.findings import masked
from adapter_doctor.formats.base_names import is_local_path
from adapter_doctor.identity import Identity, identify
from adapter_doctor.knowledge import origin
from adapter_doctor.knowledge.bases import copies, known_as
from adapter_doctor.knowledge.remote_code import RemoteModel
from adapter_doctor.merging import Advice, Outcome, merging, overall
from adapter_doctor.remote_code import known_names
from adapter_doctor.scaling import Scaling, doubts, scalings

SCHEMA = 1


@dataclass(frozen=True)
class Inspection:
    """What an adapter is, read from its config and the header of its weights.

    ``troubles`` says what could not be read, ``out_of_reach`` that this may be otherwise another time (a network).
    ``written_by`` is the PEFT release (or range of releases, by the config's keys) that saved it, ``readable_since`` the
    oldest that knows all its fields. ``remote`` are models whose own code, not transformers' class, has such module
    names. ``named`` is the base that the config names, ``means`` the known base that this means, if any. ``base``,
    ``dimensions`` and ``merging`` are there when a base was given: sizes by the tensors against its config, and what
    stands against a merge.
    """

    reference: str
    revision: str | None = None
    peft_type: str = ""
    task_type: str = ""
    tensors: int = 0
    parameters: int = 0
    dtypes: tuple[str, ...] = ()
    weights_file: str = ""
    written_by: str | None = None
    readable_since: str | None = None
    named: str = ""
    means: str | None = None
    identity: Identity = Identity()  # noqa: RUF009  # frozen
    remote: tuple[RemoteModel, ...] = ()
    scalings: tuple[Scaling, ...] = ()
    doubts: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()
    out_of_reach: bool = False
    base: str | None = None
    base_type: str = ""
    dimensions: tuple[Dimension, ...] = ()
    merging: tuple[Advice, ...] = ()

    @property
    def merge(self) -> Outcome | None:
        """How a merge into the given base comes out; None where no base was given or it could not be read."""
        return overall(self.merging) if self.base is not None and self.base_type else None

    @property
    def exit_code(self) -> int:
        """0 inspected; 1 no adapter, not for the given base, or a merge that is refused or wrong; 3 out of reach."""
        if self.out_of_reach or (not self.troubles and self.merge == "unknown"):
            return 3
        wrong = any(not one.agrees for one in self.dimensions if one.in_base is not None and one.name != "vocabulary")
        return 1 if self.troubles or wrong or self.merge in ("refused", "wrong") else 0

    def to_dict(self) -> dict[str, Any]:
        """The inspection as JSON-ready data, schema 1."""
        from adapter_doctor.render.inspection import to_dict

        return to_dict(self)

    def __str__(self) -> str:
        from adapter_doctor.render.inspection import render

        return render(self)


def build(facts: Facts, reference: str, base: str | None) -> Inspection:
    """The inspection of the adapter that ``facts`` describe; ``base`` is the reference of the given base, if any."""
    folder, config, tensors = facts.get(AdapterFolder), facts.get(AdapterConfig), facts.get(AdapterTensors)
    weights = facts.get(WeightsFiles)
    if isinstance(folder, Missing) or not folder.exists:
        return Inspection(reference, troubles=(folder.why,), out_of_reach=isinstance(folder, Missing), base=base)
    troubles = [one.why for one in (config, tensors) if isinstance(one, Missing)]
    states = [one for one in (facts.get(ConfigFile), weights) if isinstance(one, Missing)]
    found: dict[str, Any] = {"out_of_reach": bool(states)}
    if isinstance(config, AdapterConfig):
        found["written_by"], found["readable_since"] = origin(config.raw)
        found |= {
            "peft_type": config.peft_type, "task_type": config.task_type, "named": masked(config.base_name),
            "means": known_as(config.base_name) if config.base_name else None,
        }  # fmt: skip
    if isinstance(tensors, AdapterTensors):
        dtypes = Counter(info.dtype for info in tensors.tensors.values())
        found |= {
            "tensors": len(tensors), "parameters": sum(info.count for info in tensors.tensors.values()),
            "dtypes": tuple(dtype for dtype, _ in dtypes.most_common()), "weights_file": tensors.file,
            "identity": identify(tensors, config),
        }  # fmt: skip
        patterns = [group.pattern for group in found["identity"].groups]
        found["remote"] = known_names(patterns, found["identity"].families, found.get("named", ""))
    if isinstance(config, AdapterConfig) and isinstance(tensors, AdapterTensors):
        groups = scalings(config, tensors)
        found |= {"scalings": groups, "doubts": tuple(doubts(config, tensors, groups))}
    if base is not None:
        base_config = facts.get(BaseConfig)
        if isinstance(base_config, Missing):
            troubles.append(f"the base: {base_config.why}")
            found["out_of_reach"] |= isinstance(facts.get(BaseFolder), Missing)
        else:
            found["base_type"] = base_config.model_type or "unknown"
            if isinstance(tensors, AdapterTensors):
                found["dimensions"] = against(found["identity"], base_config)
            if isinstance(config, AdapterConfig) and isinstance(tensors, AdapterTensors):
                found["merging"] = merging(config, tensors, base_config)
    return Inspection(reference, folder.revision, troubles=tuple(troubles), base=base, **found)


def against(identity: Identity, base: BaseConfig) -> tuple[Dimension, ...]:
    """The sizes that the adapter's tensors tell, against those in the base's config."""
    hidden, heads = base.number("hidden_size", "n_embd", "d_model", "dim"), base.number("num_attention_heads", "n_head")
    head_dim = base.number("head_dim") or (hidden // heads if hidden and heads else None)
    groups = base.number("num_key_value_heads", "num_kv_heads") or heads
    there = {
        "hidden size": hidden,
        "intermediate size": base.number("intermediate_size", "ffn_dim", "n_inner", "d_ff"),
        "layers": base.number("num_hidden_layers", "n_layer", "num_layers"),
        "query width": heads * head_dim if heads and head_dim else None,
        "key/value width": groups * head_dim if groups and head_dim else None,
        "vocabulary": base.number("vocab_size"),
    }
    return tuple(Dimension(name, size, there.get(name)) for name, size in identity.sizes.items())


def about_named(inspection: Inspection) -> str:
    """A clause on the base that the config names, or empty: what it means, and whether the tensors fit it."""
    named, means = inspection.named, inspection.means
    if not named:
        return "the config names none"
    original = copies().get(means, means) if means else None
    if original is None:
        return "a path of another machine, which names no known base" if is_local_path(named) else "not in the table"
    found = inspection.identity.candidates
    if original in found.exact:
        fit = "it fits"
    elif original in found.but_vocabulary:
        fit = "it fits all but the vocabulary"
    elif original in found.renamed:
        fit = "it fits under other module names"
    elif not inspection.identity.sizes:
        fit = "the tensors tell no sizes"
    else:
        fit = "the tensors do not fit it"
    shown = f"{means}: " if means and means.lower() != named.lower() else ""
    copy = f", a copy of {original}" if original != means else ""
    return f"{shown}{fit}{copy}"
