"""An inspection as text for a terminal, and as JSON-ready data."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator
from typing import Any

from adapter_doctor.inspection import SCHEMA, Inspection, about_named
from adapter_doctor.knowledge.bases import copies
from adapter_doctor.render.visible import visible

_MOST = 12
_MERGE = {
    "refused": "PEFT refuses to merge it",
    "wrong": "merging gives a wrong model",
    "unknown": "whether it can be merged is not known",
    "inexact": "it can be merged, with these losses",
    "exact": "nothing in config and headers stands against a merge",
}


def render(one: Inspection, *, width: int = 80) -> str:
    """The inspection as text, at most ``width`` columns wide."""
    wide = max(width, 40)
    lines = []
    for indent, hanging, text in _blocks(one):
        start = " " * indent
        lines += textwrap.wrap(
            visible(text, 2000), wide, initial_indent=start, subsequent_indent=start + " " * hanging,
            break_long_words=False, break_on_hyphens=False,
        ) or [""]  # fmt: skip
    return "\n".join(lines) + "\n"


def _blocks(one: Inspection) -> Iterator[tuple[int, int, str]]:
    """(indent, further indent of what is wrapped, text) of each paragraph."""
    yield 0, 2, f"{one.reference}{f'@{one.revision[:12]}' if one.revision else ''}"
    kind = [one.peft_type, one.task_type, f"{one.tensors:,} tensors", f"{one.parameters:,} parameters", *one.dtypes]
    if one.tensors:
        yield 2, 2, ", ".join(filter(None, kind))
    for trouble in one.troubles:
        yield 2, 2, f"✗ {trouble}"
    if one.written_by or one.readable_since:
        told = [f"written by PEFT {one.written_by}"] if one.written_by else []
        told += [f"the oldest PEFT with all its fields is {one.readable_since}"] if one.readable_since else []
        yield 2, 2, "; ".join(told)
    if one.peft_type:
        yield 2, 2, f"base by its config: {one.named or '-'} ({about_named(one)})"
    if one.tensors:
        yield 0, 0, ""
        yield 0, 0, "The base that its tensors were made for"
        yield from _made_for(one)
    if one.scalings:
        yield 0, 0, ""
        yield 0, 0, "Scaling of the updates, as PEFT computes it from the config"
        for group in one.scalings[:_MOST]:
            names = ", ".join(group.modules[:8]) + (" …" if len(group.modules) > 8 else "")
            by = (
                f"rank {group.rank}"
                if group.rank == group.declared
                else f"rank {group.rank}, declared {group.declared}"
            )
            value = "PEFT refuses it" if group.scaling is None else f"alpha {group.alpha:g}: × {group.scaling:.4g}"
            yield 2, 2, f"{group.count} × {names}: {by}, {value}"
        if len(one.scalings) > _MOST:
            yield 2, 2, f"… and {len(one.scalings) - _MOST} more"
    for doubt in one.doubts:
        yield 2, 2, f"! {doubt}"
    if one.base is not None and one.base_type:
        yield 0, 0, ""
        yield 0, 2, f"On {one.base} ({one.base_type})"
        for size in one.dimensions:
            if size.in_base is not None and not size.agrees:
                yield 2, 2, f"✗ {size.name}: {size.in_adapter} in the adapter, {size.in_base} in the base"
        agreeing = [size.name for size in one.dimensions if size.agrees]
        if agreeing:
            yield 2, 2, f"{', '.join(agreeing)} agree"
        if one.merge is not None:
            yield 2, 2, f"merge_and_unload: {_MERGE[one.merge]}"
        for advice in one.merging:
            cure = f"; {advice.cure}" if advice.cure else ""
            yield 4, 2, f"{advice.outcome}: {advice.why}{cure}"


def _made_for(one: Inspection) -> Iterator[tuple[int, int, str]]:
    identity, found = one.identity, one.identity.candidates
    if not identity.sizes:
        yield 2, 2, "its shapes do not depend on the base's sizes, so they do not tell"
    else:
        yield 2, 2, ", ".join(f"{name} {size:,}" for name, size in identity.sizes.items())
    if identity.parameters:
        at_least = "" if identity.whole else "at least "
        yield 2, 2, f"{at_least}{_count(identity.parameters)} parameters in its layers, without embeddings"
    if identity.families:
        yield 2, 2, f"module names of: {_listed(identity.families)}"
    elif not one.remote:
        patterns = [group.pattern for group in identity.groups]
        yield 2, 2, f"no known family has all of its modules: {_listed(tuple(patterns), 4)}"
    for model in one.remote:
        since = f", there since {model.since}," if model.since else ""
        yield 2, 2, f"as in {model.whose}; transformers' own `{model.built_in[0]}`{since} has other module names"
    many = "; its shapes do not tell these apart" if len(found.exact) > 1 else ""
    if found.exact:
        means = copies().get(one.means or "", one.means)
        yield 2, 2, f"fits exactly: {_listed(tuple(sorted(found.exact, key=lambda name: name != means)))}{many}"
    elif identity.sizes:
        yield 2, 2, "fits none of the known bases exactly"
    if found.but_vocabulary:
        yield 2, 2, f"fits but for the vocabulary: {_listed(found.but_vocabulary)}"
    if found.renamed and not found.exact:
        yield 2, 2, f"fits under other module names: {_listed(found.renamed)}"


def _listed(names: tuple[str, ...], most: int = _MOST) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _count(number: int) -> str:
    return f"{number / 1e9:.1f} billion" if number >= 1_000_000_000 else f"{number / 1e6:.0f} million"


def to_dict(one: Inspection) -> dict[str, Any]:
    """JSON-ready data. Fields may be added; none changes its meaning within a schema."""
    from adapter_doctor import __version__

    identity, found = one.identity, one.identity.candidates
    return {
        "schema": SCHEMA,
        "tool": {"name": "adapter-doctor", "version": __version__},
        "adapter": {
            "reference": one.reference, "revision": one.revision, "peft_type": one.peft_type or None,
            "task_type": one.task_type or None, "tensors": one.tensors, "parameters": one.parameters,
            "dtypes": list(one.dtypes), "weights_file": one.weights_file or None, "written_by": one.written_by,
            "readable_since": one.readable_since, "base_named": one.named or None,
            "base_meant": one.means,
        },
        "made_for": {
            "sizes": dict(identity.sizes), "families": list(identity.families),
            "remote_code": [{"whose": model.whose, "built_in": model.built_in[0], "since": model.since or None} for model in one.remote],
            "layer_parameters": identity.parameters, "layer_parameters_complete": identity.whole,
            "exact": list(found.exact), "but_vocabulary": list(found.but_vocabulary),
            "under_other_names": list(found.renamed),
        },
        "scaling": [
            {"modules": list(group.modules), "count": group.count, "rank": group.rank, "declared_rank": group.declared,
             "alpha": _finite(group.alpha), "scaling": _finite(group.scaling)} for group in one.scalings
        ],
        "doubts": list(one.doubts),
        "troubles": list(one.troubles),
        "base": None if one.base is None else {
            "reference": one.base, "model_type": one.base_type or None,
            "sizes": [{"name": size.name, "adapter": size.in_adapter, "base": size.in_base} for size in one.dimensions],
            "merge": one.merge,
            "merging": [{"outcome": a.outcome, "why": a.why, "cure": a.cure or None} for a in one.merging],
        },
    }  # fmt: skip


def _finite(number: float | None) -> float | None:
    """The number, if JSON has it: a config may say NaN and Infinity."""
    return number if number is not None and math.isfinite(number) else None


def render_json(one: Inspection) -> str:
    """The inspection as indented JSON text. Characters beyond ASCII are escaped, so no terminal is moved by it."""
    return json.dumps(to_dict(one), indent=2, allow_nan=False) + "\n"
