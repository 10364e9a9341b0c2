"""AD012: base sizes differ."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_doctor import knowledge
from adapter_doctor.facts import BaseCheckpoint, BaseConfig, BaseModules, Missing, Shape
from adapter_doctor.findings import Hit, Severity, some
from adapter_doctor.rules import rule


@rule("AD012", Severity.ERROR)
def base_sizes_differ(base: BaseConfig, modules: BaseModules, checkpoint: BaseCheckpoint | Missing) -> Iterator[Hit]:
    """The base's weights have other sizes than its config gives.

    ## Why it matters
    Loading the base raises a size mismatch, or leaves the tensor at random, before the adapter's turn comes.

    ## Common causes
    A resized vocabulary that `config.json` does not tell; a config of another size of the model; a transformers that
    reads a field under another name, so that a default takes its place.

    ## Fix
    Fetch config and weights of the base together; if they are a pair, use the transformers that they were saved with
    (`transformers_version` in `config.json`).
    """
    if isinstance(checkpoint, Missing) or modules.origin not in ("skeleton", "cache") or base.quantization is not None:
        return
    names = (base.model_type, modules.class_name, *base.architectures)
    if any(step.kind != "convert" for name in names for step in knowledge.conversions(name)):
        return  # transformers renames this model's tensors on loading, and the same name may be another tensor
    differing: list[tuple[str, Shape, Shape]] = []
    for module, one in modules.modules.items():
        for own, shape in one.parameters.items():
            name = f"{module}.{own}" if module else own
            saved = checkpoint.tensors.get(name)
            if saved is not None and saved.shape != shape:
                differing.append((name, saved.shape, shape))
    if differing:
        name, there, wanted = differing[0]
        yield Hit(
            f"{name} is {list(there)} in the base's weights, and its config makes it {list(wanted)}",
            where=checkpoint.tensors[name].file,
            count=len(differing),
            examples=some(one[0] for one in differing),
        )
