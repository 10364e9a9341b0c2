"""Derive a base model's modules from the tensor names and shapes of its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping

from adapter_doctor import knowledge
from adapter_doctor.facts import BaseCheckpoint, BaseConfig, BaseModules, Missing, Module, Shape
from adapter_doctor.formats.packed_weights import logical_shapes

_EMBEDDINGS = re.compile(
    r"^(embed_tokens|wte|wpe|word_embeddings|position_embeddings|token_type_embeddings|shared|embed_positions|embed_in"
    r"|embeddings|tok_embeddings|relative_attention_bias|embed_dim|positions_embed|tokens_embed|embedding)$"
)
_SHARED_LAYERS = ("zamba", "zamba2")
"""Model types whose layers are several names of one module, of which a save keeps the first (measured with 5.23)."""
_TASK_CLASSES = ("CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")


def modules_from_checkpoint(config: BaseConfig, checkpoint: BaseCheckpoint, task_type: str) -> BaseModules | Missing:
    """The modules as the checkpoint's names give them, or why they cannot be had from there.

    Modules without parameters of their own (activations, dropout) are known only as far as they contain others.
    """
    stored = {name: info.shape for name, info in checkpoint.tensors.items()}
    shapes = logical_shapes(stored, config.quantization, checkpoint.packed)
    if isinstance(shapes, Missing):
        return shapes
    architecture = knowledge.architecture(config.model_type)
    if architecture is None and config.needs_remote_code:
        return modules_as_named(checkpoint)
    if architecture is None:
        return Missing(
            f"model_type {config.model_type!r} is not known, so the checkpoint's names may not be the model's"
        )
    if config.model_type in _SHARED_LAYERS:
        return Missing(f"the layers of {config.model_type} share weights that the checkpoint holds once")
    prefix = architecture.prefix_for(task_type)
    wanted = architecture.classes.get(task_type) if task_type in _TASK_CLASSES else None
    headless = (wanted or next(iter(config.architectures), "")) == architecture.classes.get("BASE")
    if task_type == "FEATURE_EXTRACTION":
        headless = True
    if wanted and wanted not in config.architectures:
        return Missing(f"the checkpoint is not a {wanted}, so its names lack the head that is put on for {task_type}")
    pooled = "MASKED_LM" in architecture.classes  # such a body may get a pooler that the checkpoint lacks
    if headless and (pooled or architecture.classes.get("BASE") not in config.architectures):
        return Missing(
            "the checkpoint has a head, and the bare model without it may have parts that the checkpoint lacks"
        )
    if architecture.converted:
        if any(isinstance(config.raw.get(part), dict) for part in ("text_config", "vision_config", "audio_config")):
            return Missing(f"transformers renames the parts of a {config.model_type} one by one when it loads")
        names = (wanted or "", *config.architectures, architecture.classes.get("BASE", ""), config.model_type)
        converted = _convert(shapes, next(filter(None, map(knowledge.conversions, names)), ()))
        if converted is None:
            return Missing(
                f"transformers rearranges the tensors of {config.model_type} when it loads, in a way of its own"
            )
        shapes = converted
    # An encoder-decoder holds its two halves at the top; every other model with a head holds its body under a prefix,
    # which checkpoints of the bare body (and old ones, GPT-2's above all) lack.
    bare = not config.raw.get("is_encoder_decoder") and architecture.classes.get("SEQ_2_SEQ_LM") is None
    parameters: dict[str, dict[str, Shape]] = {}
    inside = any(name.startswith(f"{prefix}.") for name in shapes) if prefix else False
    # The bare class may have a part that is called so itself, beside others: DINOv3's `model`.
    own_part = architecture.classes.get("BASE") in config.architectures and not all(
        name.startswith(f"{prefix}.") for name in shapes
    )
    for name, shape in shapes.items():
        module, _, own = name.rpartition(".")
        if prefix and inside and headless and not own_part and module.startswith(f"{prefix}."):
            module = module[len(prefix) + 1 :]
        elif prefix and bare and not inside and not headless:
            module = f"{prefix}.{module}"
        parameters.setdefault(module, {})[own] = shape
    for name in [name for name in parameters if name.rpartition(".")[2] == "shared"]:
        for half in ("encoder", "decoder"):  # they use the shared embedding under names of their own
            parameters.setdefault(f"{name.removesuffix('shared')}{half}.embed_tokens", parameters[name])
    tied = bool(config.raw.get("tie_word_embeddings", config.text.get("tie_word_embeddings", True)))
    head = _head(parameters, config, tied, headless)
    modules: dict[str, Module] = {}
    for name in parameters:
        parts = name.split(".")
        for depth in range(len(parts)):
            modules.setdefault(".".join(parts[:depth]), Module("other"))
        modules[name] = Module(_kind(name, parameters[name], architecture.conv1d), parameters[name])
    for name in [name for name in modules if name.endswith("experts") and len(modules[name].parameters)]:
        router = name.rpartition(".")[0] + ".gate"  # beside stacked experts it is a class of its own, no Linear
        if router in modules:
            modules[router] = Module("other", modules[router].parameters)
    return BaseModules(modules, "checkpoint", wanted or next(iter(config.architectures), ""), head, tied)


def modules_as_named(checkpoint: BaseCheckpoint) -> BaseModules:
    """The modules as the checkpoint's names give them, taken at their word: for a base whose code must not be run."""
    parameters: dict[str, dict[str, Shape]] = {}
    for name, info in checkpoint.tensors.items():
        module, _, own = name.rpartition(".")
        parameters.setdefault(module, {})[own] = info.shape
    modules = {"": Module("other")}
    for name, own_parameters in parameters.items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            modules.setdefault(".".join(parts[:depth]), Module("other"))
        modules[name] = Module(_kind(name, own_parameters, conv1d=False), own_parameters)
    head = next((name for name in ("lm_head", "output_layer", "transformer.output_layer") if name in parameters), None)
    return BaseModules(modules, "checkpoint", "", head)


def _convert(shapes: Mapping[str, Shape], steps: tuple[knowledge.Conversion, ...]) -> dict[str, Shape] | None:
    """Names and shapes after transformers' conversion on load; None where a step is of a kind not followed here.

    Renames apply in their order; then experts are stacked (MergeModulelist) and joined side by side (Concatenate).
    """
    steps = knowledge.conversions("legacy") + steps
    merges = [step for step in steps if step.kind == "convert"]
    simple = ({"MergeModulelist(dim=0)"}, {"MergeModulelist(dim=0)", "Concatenate(dim=1)"})
    if any(step.kind in ("group", "offset") for step in steps) or any(
        set(one.operations) not in simple for one in merges
    ):
        return None
    found: dict[str, Shape] = {}
    parts: dict[str, dict[str, list[Shape]]] = {}
    for name, shape in shapes.items():
        for step in steps:
            if step.kind == "rename":
                for source, target in zip(step.sources, step.targets * len(step.sources), strict=False):
                    name = re.sub(source, target, name, count=1)
        for step in merges:
            source, match = next(
                ((one, hit) for one in step.sources if (hit := re.search(one.replace("*.", r".*\.") + r"\b", name))),
                ("", None),
            )
            if match is not None:
                whole = name[: match.start()] + step.targets[0]
                parts.setdefault(whole, {}).setdefault(source, []).append(shape)
                break
        else:
            found[name] = shape
    order = [step.targets[0] for step in merges]  # as the class declares them, which decides how PEFT nests them
    for whole, sources in sorted(
        parts.items(), key=lambda item: next(i for i, end in enumerate(order) if item[0].endswith(end))
    ):
        experts = {len(stack) for stack in sources.values()}
        kinds = [set(stack) for stack in sources.values()]
        if len(experts) != 1 or any(len(kind) != 1 for kind in kinds):
            return None
        first = [next(iter(kind)) for kind in kinds]
        found[whole] = (experts.pop(), sum(shape[0] for shape in first), *first[0][1:])
    return found


def _head(parameters: dict[str, dict[str, Shape]], config: BaseConfig, tied: bool, headless: bool) -> str | None:
    """The output head's name. A tied head is not in the checkpoint: it is put back with the embedding's shape."""
    if headless:
        return None
    rows = config.number("vocab_size")
    for name in ("lm_head", "embed_out", "output", "cls.predictions.decoder"):
        if name in parameters:
            return name
    if (
        not tied
        or rows is None
        or not any("CausalLM" in one or "Conditional" in one or "LMHead" in one for one in config.architectures)
    ):
        return None
    for own in list(parameters.values()):
        weight = own.get("weight")
        if weight is not None and len(weight) == 2 and weight[0] == rows:
            parameters["lm_head"] = {"weight": weight}
            return "lm_head"
    return None


def _kind(name: str, own: Mapping[str, Shape], conv1d: bool) -> str:
    weight = own.get("weight")
    if weight is None:
        return "other"
    last = name.rpartition(".")[2]
    if len(weight) == 1:
        return "norm"
    if len(weight) == 2:
        if _EMBEDDINGS.match(last):
            return "embedding"
        return "conv1d" if conv1d and last.startswith(("c_", "q_attn")) else "linear"
    return {3: "conv1", 4: "conv2", 5: "conv3"}.get(len(weight), "other")
