"""Load an adapter onto a base and tell, tensor by tensor, what became of it.

This file runs in a process of its own, maybe with another environment's interpreter, which needs nothing of this
package installed: only the standard library besides torch, transformers and peft, and Python 3.9 or newer. It reads
requests as JSON lines from its standard input and answers each with one JSON line on its standard output.

How the truth is found. `PeftModel.from_pretrained` gives no load result, so three functions are listened to while it
runs: `set_peft_model_state_dict` (the model is injected, the file is read, nothing is assigned yet: the moment to list
the places), transformers' weight conversion (which file tensors went into which new ones), and
`Module.load_state_dict` (which names were assigned, which were not). Nothing is concluded from warnings.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import re
import warnings

NEEDS_BASE_VALUES = ("ADAMSS", "FROD", "SHIRA")
LISTED = 20000
BITSANDBYTES = "__bnb_optimizer_quant_state__"  # the key under which its optimizers save a parameter's moments

TASK_MAPPINGS = {
    "CAUSAL_LM": ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
                  "MODEL_FOR_VISION_2_SEQ_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"),
    "SEQ_2_SEQ_LM": ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
                     "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"),
    "SEQ_CLS": ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
                "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES"),
    "TOKEN_CLS": ("MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",),
    "QUESTION_ANS": ("MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",),
    "FEATURE_EXTRACTION": ("MODEL_MAPPING_NAMES",),
}  # fmt: skip


class Refused(Exception):
    """The libraries raised; where, and what."""

    def __init__(self, stage, error):
        super().__init__(str(error))
        self.answer = {"stage": stage, "error": type(error).__name__, "message": str(error)[:4000]}


# ------------------------------------------------------------------------------------------------------- the base


def base_config(request):
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            request["base"], trust_remote_code=bool(request.get("trust_remote_code")), **request.get("hub", {})
        )
    except Exception as error:
        raise Refused("base config", error)
    labels = request.get("labels")
    if labels and labels != getattr(config, "num_labels", None):
        with contextlib.suppress(Exception):
            config.num_labels = labels
    return config


def transformers_class(name):
    import transformers

    try:
        found = getattr(transformers, name, None)
    except Exception:
        return None
    return found if isinstance(found, type) and hasattr(found, "_from_config") else None


def candidate_classes(config, request):
    """Classes that the base may have been loaded as, the likeliest first. Each is named once."""
    from transformers.models.auto import modeling_auto

    if request.get("model_class"):
        cls = transformers_class(request["model_class"])
        if cls is None:
            raise Refused("base class", ValueError("transformers has no model class " + repr(request["model_class"])))
        return [cls]
    names = []
    mapping = request.get("auto_mapping") or {}
    if isinstance(mapping, dict) and str(mapping.get("parent_library", "")).startswith("transformers"):
        names.append(mapping.get("base_model_class"))
    architectures = [one for one in (getattr(config, "architectures", None) or []) if isinstance(one, str)]
    for table in TASK_MAPPINGS.get(request.get("task_type") or "", ()):
        entry = getattr(modeling_auto, table, {}).get(config.model_type)
        names.extend(entry if isinstance(entry, (tuple, list)) else [entry])
    listed = set(names)
    if request.get("task_type") in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        # A checkpoint saved from a class that generates is loaded as that class, vision-language ones above all.
        able = [name for name in architectures if generates(transformers_class(name))]
        names = names[:1] + able + names[1:] if names and names[0] in architectures else able + names
    trusted = listed
    found = usable(names if request.get("task_type") else names + architectures, config, trusted)
    if found:
        return found
    # No class of the task: what the checkpoint was saved from, or the bare model without a head.
    entry = getattr(modeling_auto, "MODEL_MAPPING_NAMES", {}).get(config.model_type)
    bare = list(entry) if isinstance(entry, (tuple, list)) else [entry]
    return usable(names + architectures + bare, config, trusted | set(bare))


def config_for(cls, config, trusted=True):
    """The config that the class takes: this one, or its language model's part as transformers' auto classes choose."""
    wanted = getattr(cls, "config_class", None)
    if wanted is None or isinstance(config, wanted):
        return config
    text = getattr(config, "text_config", None)
    if text is not None and isinstance(text, wanted):
        return text
    return config if trusted else None


def usable(names, config, trusted=()):
    """The classes of these names that transformers has and that take this config, each once.

    ``trusted`` names come from transformers' own tables, where a class may take another model's config.
    """
    found = []
    for name in names:
        cls = transformers_class(name) if isinstance(name, str) else None
        if cls is not None and cls not in found and config_for(cls, config, name in trusted) is not None:
            found.append(cls)
    return found


def generates(cls):
    if cls is None:
        return False
    try:
        return bool(cls.can_generate())
    except Exception:
        return False


def skeleton(cls, config):
    """The model without weights: every parameter and buffer on torch's meta device."""
    import copy

    import torch

    config = copy.deepcopy(config_for(cls, config))
    for part in (config, getattr(config, "text_config", None)):
        # Quantised layers need their package; the shapes that matter are those of the layers they stand for.
        if part is not None and getattr(part, "quantization_config", None) is not None:
            with contextlib.suppress(AttributeError):
                del part.quantization_config
    try:
        with torch.device("meta"):
            return cls._from_config(config)
    except Exception as first:
        try:
            with torch.device("meta"):
                return cls._from_config(config, attn_implementation="eager")
        except Exception:
            raise Refused("base model", first)


def choose_skeleton(request, config):
    """The skeleton of the candidate class on which most of the adapter's modules exist; the first one at a tie."""
    classes = candidate_classes(config, request)
    if not classes:
        raise Refused(
            "base class",
            ValueError(
                "transformers has no model class for model_type %r and task %r; its architectures are %r"
                % (config.model_type, request.get("task_type"), getattr(config, "architectures", None))
            ),
        )
    paths = set(request.get("paths", []))
    best, best_score, trouble = None, (-1, 0), None
    for number, cls in enumerate(classes[:4]):
        try:
            model = skeleton(cls, config)
        except Refused as error:
            trouble = trouble or error
            continue
        names = {name for name, _ in model.named_modules()} if paths else set()
        score = (sum(1 for path in paths if path in names), -number)
        if score > best_score:
            best, best_score = model, score
        if score[0] == len(paths):
            break
    if best is None:
        raise trouble
    return best


def stand_in(shapes):
    """A model made of nothing but the checkpoint's names and shapes, for a base whose code must not be run."""
    import torch

    class StandIn(torch.nn.Module):
        def prepare_inputs_for_generation(self, *args, **kwargs):  # PEFT wants it of a causal model
            raise NotImplementedError

    root = StandIn()
    with torch.device("meta"):
        for module_name, (kind, parameters) in sorted(shapes.items()):
            parts = module_name.split(".") if module_name else []
            parent = root
            for part in parts[:-1]:
                if part not in parent._modules:
                    parent.add_module(part, StandIn())
                parent = parent._modules[part]
            weight = parameters.get("weight")
            if kind == "linear" and weight is not None and len(weight) == 2:
                made = torch.nn.Linear(weight[1], weight[0], bias="bias" in parameters)
            elif kind == "embedding" and weight is not None and len(weight) == 2:
                made = torch.nn.Embedding(weight[0], weight[1])
            else:
                made = StandIn()
                for name, shape in parameters.items():
                    made.register_parameter(name, torch.nn.Parameter(torch.empty(shape)))
            if parts:
                parent.add_module(parts[-1], made)
    return root


def full_base(request, config):

    classes = candidate_classes(config, request)
    if not classes:
        raise Refused("base class", ValueError("transformers has no model class for this base and task"))
    best = choose_skeleton(request, config)
    cls = type(best)
    del best
    try:
        model = cls.from_pretrained(request["base"], config=config, **request.get("hub", {}))
    except Exception as error:
        raise Refused("base weights", error)
    return model.eval()


def as_meta(model):
    """A copy of a model in memory with every tensor on the meta device: its structure without its weights."""
    import copy

    import torch

    memo = {}
    for parameter in model.parameters():
        with contextlib.suppress(Exception):
            memo[id(parameter)] = torch.nn.Parameter(
                torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
            )
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def kind_of(module):
    import torch

    name = type(module).__name__
    if name == "Conv1D":
        return "conv1d"
    for kind, cls in (
        ("linear", torch.nn.Linear),
        ("embedding", torch.nn.Embedding),
        ("conv1", torch.nn.Conv1d),
        ("conv2", torch.nn.Conv2d),
        ("conv3", torch.nn.Conv3d),
        ("attention", torch.nn.MultiheadAttention),
    ):
        if isinstance(module, cls):
            return kind
    if "norm" in name.lower():
        return "norm"
    return "other"


def module_tree(model):
    """name: [kind, class name, {parameter: shape}, groups]"""
    tree = {}
    for name, module in model.named_modules(remove_duplicate=False):
        own = {key: list(one.shape) for key, one in module._parameters.items() if one is not None}
        tree[name] = [kind_of(module), type(module).__name__, own, getattr(module, "groups", 1) or 1]
    head = None
    with contextlib.suppress(Exception):
        output = model.get_output_embeddings()
        head = next((name for name, module in model.named_modules() if module is output), None)
    tied = False
    with contextlib.suppress(Exception):
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return {"modules": tree, "class_name": type(model).__name__, "output_embedding": head, "tied": bool(tied)}


# ------------------------------------------------------------------------------------------------------- the load


class Listener:
    """What was seen while PEFT loaded."""

    def __init__(self):
        self.model = None
        self.adapter_name = "default"
        self.file = {}  # file key: tensor
        self.places = {}  # file key: (model key or None, shape)
        self.assigned = []  # (is the whole PeftModel, {model key: tensor}, unexpected keys)
        self.origins = {}  # id of a converted tensor's name in file form: set of file keys
        self.converted = False
        self.targeted = []
        self.before = {}
        self.alias = {}  # name in the model: id of the tensor, for tensors with several names


def list_places(model, adapter_name):
    """What PEFT would save now: file key: (model key, shape). The model key is found by the tensor's identity."""
    from peft.utils import get_peft_model_state_dict

    state = dict(model.state_dict())
    by_id = {id(value): key for key, value in state.items()}
    saved = get_peft_model_state_dict(model, state_dict=state, adapter_name=adapter_name, save_embedding_layers=False)
    # X-LoRA's parts are called "0" and "1", so PEFT's filter by adapter name drops layers of its classifier.
    saved.update({key: value for key, value in state.items() if "internal_xlora_classifier" in key})
    return {key: (by_id.get(id(value)), list(value.shape)) for key, value in saved.items()}


@contextlib.contextmanager
def listening(seen, header=None):
    """Listen to PEFT's loading. With ``header`` ({key: [dtype, shape]}) tensors are made on meta instead of read."""
    import peft.peft_model as peft_model
    import torch

    original_set = peft_model.set_peft_model_state_dict
    original_load = torch.nn.Module.load_state_dict
    original_weights = peft_model.load_peft_weights
    conversion = None
    with contextlib.suppress(Exception):
        import peft.utils.transformers_weight_conversion as conversion
    original_convert = getattr(conversion, "convert_peft_adapter_state_dict_for_transformers", None)

    def set_state(model, state, *args, **kwargs):
        if seen.model is None or kwargs.get("adapter_name", seen.adapter_name) == seen.adapter_name:
            seen.model = model
            seen.file = dict(state)
            seen.assigned = []
            seen.targeted = list(getattr(model.base_model, "targeted_module_names", []) or [])
            seen.before = {key: list(value.shape) for key, value in model.state_dict().items()}
            seen.places = list_places(model, seen.adapter_name)
            seen.alias = shared_names(model)
        return original_set(model, state, *args, **kwargs)

    def load_state(module, state, *args, **kwargs):
        entry = [module is seen.model, dict(state), None]
        seen.assigned.append(entry)
        result = original_load(module, state, *args, **kwargs)
        entry[2] = set(result.unexpected_keys)
        return result

    def convert(model, peft_config, adapter_state_dict, adapter_name="default"):
        out = original_convert(model, peft_config, adapter_state_dict, adapter_name)
        if set(out) != set(adapter_state_dict) or any(out[k] is not adapter_state_dict[k] for k in out):
            seen.converted = True
            seen.origins = trace(original_convert, model, peft_config, adapter_state_dict, adapter_name)
        return out

    def read_weights(*args, **kwargs):
        dtypes = {
            "F32": torch.float32,
            "F16": torch.float16,
            "BF16": torch.bfloat16,
            "F64": torch.float64,
            "I32": torch.int32,
            "I64": torch.int64,
            "U8": torch.uint8,
            "I8": torch.int8,
            "BOOL": torch.bool,
        }
        return {
            key: torch.empty(shape, dtype=dtypes.get(dtype, torch.float32), device="meta")
            for key, (dtype, shape) in header.items()
        }

    peft_model.set_peft_model_state_dict = set_state
    torch.nn.Module.load_state_dict = load_state
    if original_convert is not None:
        conversion.convert_peft_adapter_state_dict_for_transformers = convert
    if header is not None:
        peft_model.load_peft_weights = read_weights
    try:
        yield
    finally:
        peft_model.set_peft_model_state_dict = original_set
        torch.nn.Module.load_state_dict = original_load
        peft_model.load_peft_weights = original_weights
        if original_convert is not None:
            conversion.convert_peft_adapter_state_dict_for_transformers = original_convert


def trace(convert, model, peft_config, state, adapter_name):
    """{converted key: file keys that went into it}, by running the conversion on tensors that remember where from."""
    import torch

    class Traced(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            found = set()

            def collect(value):
                if isinstance(value, Traced):
                    found.update(getattr(value, "origins", ()))
                elif isinstance(value, (list, tuple)):
                    for one in value:
                        collect(one)

            collect(args)
            collect(list((kwargs or {}).values()))
            with torch._C.DisableTorchFunctionSubclass():
                result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                result = result.as_subclass(cls)
                result.origins = found
            return result

    marked = {}
    for key, value in state.items():
        one = torch.empty(value.shape, dtype=value.dtype, device="meta").as_subclass(Traced)
        one.origins = {key}
        marked[key] = one
    return {
        key: set(getattr(value, "origins", {key}))
        for key, value in convert(model, peft_config, marked, adapter_name).items()
    }


def load_adapter(model, request, seen, extent):
    """PeftModel.from_pretrained on the base, listened to. Raises Refused with the stage that raised."""
    from inspect import signature

    import peft

    options = {"adapter_name": seen.adapter_name, "is_trainable": trains(request)}
    if extent == "skeleton" and "low_cpu_mem_usage" in signature(peft.PeftModel.from_pretrained).parameters:
        options["low_cpu_mem_usage"] = request.get("peft_type") != "SHADOW"
    options["torch_device"] = "cpu"
    header = request.get("header")
    try:
        with listening(seen, header):
            return peft.PeftModel.from_pretrained(model, request["adapter"], **options)
    except Exception as error:
        stage = "inject" if seen.model is None else "assign"
        raise Refused(stage, error)


def sort_out(seen):
    """What became of each tensor in the file and of each place in the model."""
    file_id = {id(tensor): key for key, tensor in seen.file.items()}
    landed, overwritten = set(), set()
    covered, clashes = set(), []
    place_of = {model_key: key for key, (model_key, _) in seen.places.items() if model_key}
    known_fate = set()
    for whole, state, unexpected in seen.assigned:
        for model_key, tensor in state.items():
            origin = {file_id[id(tensor)]} if id(tensor) in file_id else None
            if origin is None:
                name = place_of.get(model_key) or file_form(model_key, seen.adapter_name)
                origin = seen.origins.get(name) or ({name} if name in seen.file else set())
            if whole and model_key not in seen.before:
                known_fate |= origin
                continue
            if unexpected is not None and model_key in unexpected:
                known_fate |= origin
                continue
            shape = seen.before.get(model_key) if whole else None
            if shape is not None and list(tensor.shape) != shape:
                clashes.append([min(origin, default=model_key), list(tensor.shape), shape])
                known_fate |= origin
                if model_key in place_of:
                    covered.add(place_of[model_key])
                continue
            landed |= origin
            if not whole:
                continue
            if model_key in place_of:
                covered.add(place_of[model_key])
            elif not is_adapter_key(model_key, seen.adapter_name):
                overwritten |= origin
    if not seen.assigned:  # PEFT raised before it assigned anything: compare by name
        for key, tensor in seen.file.items():
            place = seen.places.get(key)
            if place is not None:
                covered.add(key)
                if list(tensor.shape) != place[1]:
                    clashes.append([key, list(tensor.shape), place[1]])
                else:
                    landed.add(key)
    else:
        own_way = {"prompt_embeddings"} if kind_of_prompt(seen) == "CARTRIDGE" else set()
        for key in seen.file:  # consumed by a method's own way of loading, or landed under a transform
            if key not in landed and (key not in known_fate or key in own_way) and key in seen.places:
                landed.add(key)
                known_fate.discard(key)
        for key, (model_key, _) in seen.places.items():
            if key in landed and (model_key is None or (seen.file.get(key) is not None and key not in known_fate)):
                covered.add(key)
    # Parameters that several names share are covered when one of the names is.
    alias = seen.alias
    covered_ids = {alias.get(seen.places[key][0]) for key in covered if seen.places[key][0]} - {None}
    vacant = [
        key
        for key, (model_key, _) in seen.places.items()
        if key not in covered
        and not is_echo(key, seen.places)
        and (alias.get(model_key) is None or alias[model_key] not in covered_ids)
    ]
    known = {entry[0] for entry in clashes}
    for key, tensor in seen.file.items():  # some methods take a tensor of any shape and fail later
        place = seen.places.get(key)
        if place is not None and list(tensor.shape) != place[1] and key not in known and not seen.converted:
            clashes.append([key, list(tensor.shape), place[1]])
    clashes = [entry for entry in clashes if not is_echo(entry[0], seen.file)]
    overwritten = {key for key in overwritten if not is_echo(key, seen.file)}
    clashing = {entry[0] for entry in clashes}
    lost = outdone(seen, landed)
    landed -= lost
    ignored = [
        key
        for key in seen.file
        if key in lost
        or (
            key not in landed
            and key not in clashing
            and not is_echo(key, seen.file)
            # a tied head shares the trained tokens of the embedding; PEFT saves both when the vocabulary was resized
            and (alias.get("%s.%s" % (key, seen.adapter_name)) or 0) not in covered_ids
            and "lora_monteclora_sampler" not in key
        )  # it serves training only and is not loaded for use
    ]
    return {
        "in_file": len(seen.file),
        "landed": len(landed - clashing),
        "ignored": ignored[:LISTED],
        "left_at_init": vacant[:LISTED],
        "clashes": clashes[:LISTED],
        "overwritten": sorted(overwritten)[:LISTED],
        "converted": seen.converted,
        "targeted": seen.targeted,
        "places": {key: shape for key, (_, shape) in seen.places.items()},
    }


def outdone(seen, landed):
    """Tensors of the file whose place is a shared parameter into which another, different one of the file goes later."""
    import torch

    names_of, key_at = {}, {place[0]: key for key, place in seen.places.items() if place[0]}
    for name, tensor in seen.alias.items():
        names_of.setdefault(tensor, []).append(name)
    lost = set()
    for names in names_of.values():  # in the order in which load_state_dict goes through them
        keys = [key_at[name] for name in names if key_at.get(name) in landed and key_at[name] in seen.file]
        if len(keys) < 2 or any(seen.file[key].is_meta for key in keys):
            continue
        held = [seen.file[key].contiguous().reshape(-1).view(torch.uint8) for key in keys]
        lost.update(key for key, one in zip(keys, held) if len(one) == len(held[-1]) and not torch.equal(one, held[-1]))
    return lost


def is_echo(key, names):
    """Whether this is a second copy that PEFT saves of a module saved whole when the vocabulary was resized."""
    plain = re.sub(r"\.(?:modules_to_save(?:\.default)?|original_module)\.", ".", key)
    return plain != key and plain in names


def kind_of_prompt(seen):
    """The method of a learnt prompt; CARTRIDGE copies its tensor by hand, and would have raised for a wrong shape."""
    config = seen.model.peft_config[seen.adapter_name]
    return str(getattr(config.peft_type, "value", config.peft_type))


def pass_refused(peft_model, adapter_name):
    """Why the first forward pass raises, or passes a learnt prompt by; empty where nothing stops it, None if not known.

    PEFT gives a prefix as keys and values in a plain cache, with the sizes of the adapter's config, and asks the base
    nothing (peft 0.21.2, `PeftModel.get_prompt`; only its classes for classification and question answering look
    whether the forward takes a cache, and then only in the pass).
    """
    from inspect import signature

    config = peft_model.peft_config[adapter_name]
    kind, task = (str(getattr(one, "value", one)) for one in (config.peft_type, config.task_type))
    base = peft_model.get_base_model()
    body = getattr(peft_model, "transformer_backbone_name", None)
    parameters = signature(base.forward).parameters
    takes = set(parameters)
    passes_on = any(one.kind is one.VAR_KEYWORD for one in parameters.values()) and "cache_params" not in takes
    if kind in PROMPTS and kind not in ("PREFIX_TUNING", "CARTRIDGE"):
        taken = passes_on or "inputs_embeds" in takes
        return "" if taken else "the base's forward takes no `inputs_embeds`, which carry the prompt."
    if kind not in PROMPTS:
        return no_linear_forward(peft_model, kind)
    if body and task in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"):  # PEFT's classes for these ask by name
        takes, passes_on = takes | set(signature(base.get_submodule(body).forward).parameters), False
    if "past_key_values" not in takes and not passes_on:
        return "the base's forward takes no `past_key_values`, which carry the prefix."
    with contextlib.suppress(Exception):  # a base of another build than any known
        return cache_refuses(base, config)
    return None


def no_linear_forward(peft_model, kind):
    """Which adapted layer is a Linear by its class alone: PEFT looks at that, and adds to what its forward gives."""
    import torch

    seen = set()
    for name, layer in peft_model.named_modules():
        own = layer.get_base_layer() if hasattr(layer, "get_base_layer") else None
        if not isinstance(own, torch.nn.Linear) or type(own) in seen:
            continue
        seen.add(type(own))
        if not type(own).__module__.startswith("transformers.models.") or type(own).forward is torch.nn.Linear.forward:
            continue
        what = "%s is a %s" % (name.removeprefix("base_model.model."), type(own).__name__)
        try:
            with torch.no_grad():  # three rows of its own device: on meta only shapes are computed
                given = own(torch.zeros(3, own.in_features, dtype=own.weight.dtype, device=own.weight.device))
        except (RuntimeError, TypeError, ValueError):
            if kind == "LORA":
                return "%s, which takes another input than a linear layer." % what
            continue
        if not isinstance(given, torch.Tensor):
            return "%s, whose forward gives a %s and not a tensor." % (what, type(given).__name__)
        if given.shape != (3, own.out_features):
            return "%s, whose forward gives %d numbers where its weight has %d rows." % (
                what,
                given.shape[-1],
                own.out_features,
            )
    return ""


def cache_refuses(base, config):
    """Why the base's layers cannot go on from keys and values of the prefix's sizes; None where theirs are not known."""
    text = base.config.get_text_config(decoder=True) if hasattr(base.config, "get_text_config") else base.config
    heads, width = config.num_attention_heads, config.token_dim
    if width % heads:
        return "the prefix has %d heads in a width of %d, which they do not divide." % (heads, width)
    if config.num_transformer_submodules == 2 and not base.config.is_encoder_decoder:
        return "task_type SEQ_2_SEQ_LM makes a prefix for an encoder and a decoder, and the base is a decoder alone."
    if text.to_dict().get("kv_lora_rank"):
        return "the base keeps compressed keys and values (latent attention), and the prefix is made of whole ones."
    if state := keeps_state(base, text):
        return (
            "%s of the base keep a state of their own (linear attention, convolution), and no keys and values." % state
        )
    kept = [
        (first_number(one, "layer_idx", "layer_id"), cache)
        for one in decoder_of(base).modules()
        if (cache := cache_of(one))
    ]
    depth = max((number for number, _ in kept), default=0) + 1
    if base.config.is_encoder_decoder and depth > config.num_layers:  # a base that is a decoder alone: AD307
        return "the prefix is made for %d layers, and the decoder has %d." % (config.num_layers, depth)
    wanted = list(dict.fromkeys(cache for _, cache in kept))
    given = (heads, width // heads, width // heads)
    if not wanted or base.config.model_type in brought_to_order():
        return None
    if any(kind in base.config.model_type for kind in ("gemma2", "gemma3_text", "gemma4")):
        # PEFT cuts the prefix to each layer's size, and leaves out those that it is too small for.
        wanted = [] if any(one <= given and one[1] <= given[1] for one in wanted) else wanted
    for one in wanted:
        if one != given:
            own = "%d of %d" % one[:2] if one[1] == one[2] else "%d of %d and %d" % one
            return "the prefix has %d heads of %d, and the base's keys and values %s." % (*given[:2], own)
    return ""


def decoder_of(base):
    """The part that has the cache, since encoders and towers may have other heads; the whole where none is known."""
    with contextlib.suppress(Exception):
        part = base.get_decoder()
        if any(cache_of(one) for one in part.modules()):
            return part
    return base


def cache_of(module):
    """(heads, their width in keys, in values) of what an attention puts into the cache; None for any other module."""
    if first_number(module, "layer_idx", "layer_id") is None or getattr(module, "is_cross_attention", False):
        return None
    size = first_number(
        module, "head_dim", "attention_head_size", "head_size", "key_value_proj_dim", "depth", "dim_head"
    )
    keys, values = (getattr(getattr(module, name, None), "out_features", None) for name in ("k_proj", "v_proj"))
    if not size:
        return None
    if keys and values:
        return (keys // size, size, values * size // keys)
    if getattr(module, "new_decoder_architecture", False):  # Falcon repeats its keys before it keeps them
        return (module.num_heads, size, size)
    counts = ("num_key_value_heads", "num_kv_heads", "kv_heads", "num_heads", "num_attention_heads", "n_heads")
    number = first_number(module, *counts) or first_number(getattr(module, "config", None), "num_attention_heads")
    return (number, size, size) if number else None


def brought_to_order():
    """Model types whose prefix PEFT brings into their own order, which it did for older transformers."""
    from peft.utils import constants

    return getattr(constants, "TRANSFORMERS_MODELS_TO_PREFIX_TUNING_POSTPROCESS_MAPPING", {})


def first_number(thing, *names):
    return next((value for name in names if isinstance(value := getattr(thing, name, None), int)), None)


def keeps_state(base, text):
    """Which layers go on from more than keys and values, by the cache that transformers makes for this config."""
    import inspect

    from transformers import cache_utils

    try:
        layers = cache_utils.DynamicCache(config=text).layers
    except Exception:  # transformers before 4.56 makes none from a config
        return ""
    source = inspect.getsource(inspect.getmodule(type(base)))
    found = 0
    for layer in layers:
        more = {
            name
            for name in set(dir(layer)) - set(dir(cache_utils.DynamicLayer))
            if name.startswith(("update_", "store_"))
        }
        found += any(name in source for name in more) or (bool(more) and "uses cache of its own" in source)
    return "%d layers" % found if found else ""


def shared_names(model):
    """{name: id of the tensor}, for every parameter and buffer that has more than one name."""
    names = {}
    for listing in (model.named_parameters, model.named_buffers):
        for name, tensor in listing(remove_duplicate=False):
            names.setdefault(id(tensor), []).append(name)
    return {name: number for number, group in names.items() if len(group) > 1 for name in group}


def file_form(model_key, adapter_name):
    if model_key.endswith("." + adapter_name):
        return model_key[: -len(adapter_name) - 1]
    head, _, tail = model_key.rpartition(".")
    return head[: -len(adapter_name) - 1] + "." + tail if head.endswith("." + adapter_name) else model_key


def is_adapter_key(model_key, adapter_name):
    parts = model_key.split(".")
    marks = ("lora_", "prompt_encoder", "adaption_", "internal_xlora")
    return adapter_name in parts or any(part.startswith(marks) for part in parts)


def unequal(seen):
    """Places whose values are not those of the file, after casting: full loads only."""
    import torch

    state = dict(seen.model.state_dict())
    wrong = []
    for whole, given, unexpected in seen.assigned:
        for key, tensor in given.items() if whole else ():
            there = state.get(key)
            if there is None or key in (unexpected or ()) or there.is_meta or there.shape != tensor.shape:
                continue
            if not torch.equal(there, tensor.to(there)) and not bool(torch.isnan(tensor).any()):
                wrong.append(file_form(key, seen.adapter_name))
    return wrong


def scaling_of(model, adapter_name):
    found = {}
    for name, module in model.named_modules():
        scaling = getattr(module, "scaling", None)
        if isinstance(scaling, dict) and isinstance(scaling.get(adapter_name), (int, float)):
            found[name.replace("base_model.model.", "", 1)] = float(scaling[adapter_name])
    return found


# ------------------------------------------------------------------------------------------------- a forward pass


def dummy_inputs(model):
    """Inputs made from the config: token ids, or pixels or samples of the size it names."""
    import torch

    config = model.config
    text = getattr(config, "text_config", None) or config
    main = getattr(model, "main_input_name", "input_ids")
    generator = torch.Generator().manual_seed(0)
    rows = getattr(text, "vocab_size", None) or 100
    ids = torch.randint(0, min(rows, 1000), (1, 8), generator=generator)
    if main == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        dtype = next(model.parameters()).dtype
        return {
            "pixel_values": torch.rand(1, getattr(config, "num_channels", 3), height, width, generator=generator).to(
                dtype
            )
        }
    if main in ("input_values", "input_features"):
        width = getattr(config, "num_mel_bins", None)
        shape = (1, width, 2 * getattr(config, "max_source_positions", 1500)) if width else (1, 16000)
        return {main: torch.rand(*shape, generator=generator)}
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids[:, :4]
    return inputs


def run_both(model, base):
    """A forward pass with the adapter and one without it."""
    import torch

    if any(parameter.is_meta for parameter in model.parameters()):
        return {"stage": "run", "error": "RuntimeError", "message": "parameters are left on the meta device"}
    try:
        inputs = dummy_inputs(base)
        model.eval()
        with torch.no_grad():
            on = first_output(model(**inputs))
            with model.disable_adapter():
                off = first_output(model(**inputs))
        if on.shape != off.shape:
            on = on[:, -off.shape[1] :] if on.dim() == off.dim() == 3 else on
        finite = bool(torch.isfinite(on).all())
        gap = float((on.float() - off.float()).abs().max()) if on.shape == off.shape else 1.0
        return {
            "difference": gap if finite else 0.0,
            "finite": finite,
            "finite_without": bool(torch.isfinite(off).all()),
        }
    except Exception as error:
        return {"stage": "run", "error": type(error).__name__, "message": str(error)[:2000]}


def first_output(output):
    for name in ("logits", "last_hidden_state", "start_logits", "prediction_logits"):
        value = getattr(output, name, None)
        if value is not None:
            return value
    return next(value for value in output.values() if hasattr(value, "shape"))


# --------------------------------------------------------------------------------------------- a training checkpoint

PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE")
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
SAMPLED = 20000


def trains(request):
    """Whether the adapter is to be loaded for training; PEFT refuses to load a learnt prompt so."""
    return bool(request.get("train")) and request.get("peft_type") not in PROMPTS


def to_train(peft_model, base, request):
    """The model whose parameters train: the loaded one, or for a learnt prompt one made anew as for training."""
    if request.get("peft_type") not in PROMPTS:
        return peft_model
    import peft

    config = peft.PeftConfig.from_pretrained(request["adapter"])
    config.inference_mode = False
    return peft.get_peft_model(base, config)


def training(model, request, seen=None):
    """What a resume needs to know: [name, shape, decays, file key, dtype, number] of each trainable parameter, and the moments."""
    decayed = with_decay(model)
    places, file = (seen.places, seen.file) if seen is not None else ({}, {})
    key_of = {place[0]: key for key, place in places.items() if place[0]}
    parameters = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    numbers = {name: number for number, (name, _) in enumerate(model.named_parameters())}
    for name, one in parameters if request.get("peft_type") in PROMPTS else ():
        # What a file of a learnt prompt holds under this name is the weight itself only where the shapes are the same.
        key = name.rpartition(".")[2] if "prefix_task" in name else "prompt_embeddings"
        held = name.endswith((".embedding.weight", key)) and key in places and places[key][1] == list(one.shape)
        key_of.setdefault(name, key if held else "")
    out = {
        "trainable": [
            [
                name,
                list(one.shape),
                name in decayed,
                key_of.get(name, ""),
                DTYPES.get(str(one.dtype)[6:], str(one.dtype)),
                numbers[name],
            ]
            for name, one in parameters
        ],
        "total": len(numbers),
    }
    if request.get("optimizer"):
        names = [name for name, _ in parameters]
        order = [name for name in names if name in decayed] + [name for name in names if name not in decayed]
        weights = [file.get(key_of.get(name)) for name in order]  # those in the model are moved to meta
        out["moments"] = moments(request["optimizer"], request.get("inside"), order, weights)
    return out


def with_decay(model):
    """Names of the parameters that the Trainer's optimizer puts into its first group."""
    from transformers import Trainer

    # Both releases that have it as a method and those where it reads nothing of the Trainer take the model alone.
    return set(Trainer.get_decay_parameter_names(None, model))


def moments(path, inside, names, weights):
    """Which of an optimizer's moments are not finite, and which seem to be another parameter's."""
    import torch

    try:
        try:
            saved = read_weights_only(path)
        except Exception as error:
            if "torchao.optim" not in str(error):
                raise
            importlib.import_module("torchao.optim")  # it allows its classes of moments as it is imported
            saved = read_weights_only(path)
        saved = saved[inside] if inside else saved
        saved = saved[0] if isinstance(saved, list) else saved
        state = saved.get("state") or {}
        ids = [one for group in saved.get("param_groups") or [] for one in group["params"]]
        known = set(ids)
        state = {key: unwrapped(kept) for key, kept in state.items() if isinstance(kept, dict)}
    except Exception as error:
        return {"refusal": "%s: %s" % (type(error).__name__, str(error)[:1000])}
    wrong = [
        key
        for key, kept in state.items()
        if any(torch.is_tensor(one) and one.is_floating_point() and not finite(one) for one in kept.values())
    ]
    triples = list(zip(ids, names, weights)) if len(ids) == len(names) else []
    if triples and known == set(names):  # FSDP files the moments under the parameters' names
        own = dict(zip(names, weights))
        triples = [(name, name, own[name]) for name in ids]
    return {"not_finite": wrong[:LISTED], "misplaced": misplaced(state, triples)}


def unwrapped(kept):
    """What an optimizer keeps of a parameter, without the wrapper of bitsandbytes."""
    inner = kept.get(BITSANDBYTES)
    return {**kept, **inner} if isinstance(inner, dict) else kept


def read_weights_only(path):
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # files of torch before 1.6 cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True)


def finite(tensor):
    import torch

    tensor = tensor.dequantize() if type(tensor) is not torch.Tensor and hasattr(tensor, "codes") else tensor
    return all(bool(torch.isfinite(part).all()) for part in tensor.reshape(-1).split(1 << 22))


def misplaced(state, triples):
    """[id, id whose parameter its first moment belongs to], where the values leave no doubt.

    LoRA's B (A for an embedding) begins at zero, so what it is now is the sum of Adam's steps, each against the first
    moment of its time: B and the negative moment point the same way, and the moments of other parameters do not.
    Only a closed exchange counts in which each parameter fits another's moment far beyond chance, and its own does not.
    """
    import torch

    alike = {}
    for key, name, parameter in triples:
        kept = state.get(key)
        first = first_moment(kept) if isinstance(kept, dict) else None
        grown = ".lora_B." in name or ".lora_embedding_A." in name
        usable = grown and torch.is_tensor(first) and parameter is not None and not parameter.is_meta
        if (
            usable
            and first.shape == parameter.shape
            and all(finite(one) and bool(one.any()) for one in (first, parameter))
        ):
            alike.setdefault(tuple(first.shape), []).append((key, parameter, first))
    found = []
    for members in alike.values():
        if 2 <= len(members) <= 2000:
            keys, parameters, firsts = zip(*members)
            found += [[keys[theirs], keys[mine]] for mine, theirs in exchanged(parameters, firsts)]
    return found[:LISTED]


def first_moment(kept):
    """Adam's first moment of a parameter, that of bitsandbytes' 8 bits put together from its blocks of 256; None if none."""
    import torch

    first = kept.get("exp_avg", kept.get("state1"))
    if not torch.is_tensor(first):
        return None
    if type(first) is not torch.Tensor:
        return first.dequantize() if hasattr(first, "codes") else None
    if first.dtype != torch.uint8:
        return first
    values, scale = kept.get("qmap1"), kept.get("absmax1")
    blocks = -(-first.numel() // 256)
    if (
        not torch.is_tensor(values)
        or not torch.is_tensor(scale)
        or tuple(scale.shape) != (blocks,)
        or len(values) != 256
    ):
        return None
    return (values[first.reshape(-1).long()] * scale.repeat_interleave(256)[: first.numel()]).reshape(first.shape)


def exchanged(parameters, firsts):
    """(parameter, the one whose first moment it fits) by number, for parameters of one shape."""
    import torch

    at = torch.randperm(parameters[0].numel(), generator=torch.Generator().manual_seed(0))[:SAMPLED]

    def rows(tensors):
        stacked = torch.stack([one.detach().reshape(-1)[at].float() for one in tensors])
        return torch.nn.functional.normalize(stacked, dim=1)

    likeness = rows(parameters) @ -rows(firsts).T
    noise = len(at) ** -0.5
    moved = []
    for mine, theirs in enumerate(likeness.argmax(1).tolist()):
        here, row, column = likeness[mine, theirs], likeness[mine].clone(), likeness[:, theirs].clone()
        row[theirs] = column[mine] = 0
        if mine != theirs and here > 4 * noise and here > 2 * max(row.max(), column.max()):
            moved.append((mine, theirs, float(here)))
    closed = {mine for mine, _, _ in moved} == {theirs for _, theirs, _ in moved}
    sure = sum(here for _, _, here in moved) > 8 * noise * len(moved) ** 0.5
    return [(mine, theirs) for mine, theirs, _ in moved] if moved and closed and sure else []


# ------------------------------------------------------------------------------------------------------ the answer


def versions():
    import platform
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "peft", "accelerate", "safetensors", "huggingface_hub"):
        try:
            found[name] = metadata.version(name)
        except Exception:
            found[name] = None
    return found


def answer(request, model=None):
    """The whole answer to one request; ``model`` is a base already in memory, which is not touched."""
    out = {"versions": versions(), "refusal": None, "warnings": []}
    extent = request.get("extent", "skeleton")
    seen = Listener()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if model is not None:
                base = as_meta(model)
            elif request.get("stand_in"):
                base = stand_in(request["stand_in"])
            else:
                config = base_config(request)
                base = full_base(request, config) if extent == "full" else choose_skeleton(request, config)
            out["base"] = module_tree(base)
            out["class_name"] = type(base).__name__
            if request.get("adapter"):
                if request.get("peft_type") in NEEDS_BASE_VALUES and extent != "full":
                    raise NotImplementedError(request["peft_type"])
                sums = checksums(base) if extent == "full" else {}
                peft_model = load_adapter(base, request, seen, extent)
                out.update(sort_out(seen))
                out["scaling"] = scaling_of(peft_model, seen.adapter_name)
                out["pass_refused"] = pass_refused(peft_model, seen.adapter_name)
                if request.get("train"):
                    out.update(training(to_train(peft_model, base, request), request, seen))
                if extent == "full":
                    wrong = set(unequal(seen)) & set(seen.file)
                    out["ignored"] = sorted(set(out["ignored"]) | wrong)
                    out["landed"] -= len(wrong)
                    trained = {file_form(key, seen.adapter_name) for key, _ in seen.places.values() if key}
                    out["changed_base"] = [
                        name
                        for name in changed(peft_model, sums)
                        if not any(key.replace(".base_layer", "").endswith(name) for key in trained)
                    ]
                    if request.get("run"):
                        out["run"] = run_both(peft_model, base)
        except Refused as refused:
            if refused.answer["error"] == "NotImplementedError" and "meta tensor" in refused.answer["message"]:
                out["needs_values"] = str(request.get("peft_type"))  # a limit of skeletons, not of the adapter
            else:
                out["refusal"] = refused.answer
            if seen.model is not None:
                with contextlib.suppress(Exception):
                    out.update(sort_out(seen))
        except NotImplementedError as error:
            out["needs_values"] = str(error)
    out["warnings"] = list(dict.fromkeys("%s: %s" % (one.category.__name__, str(one.message)[:500]) for one in caught))[
        :50
    ]
    return out


def checksums(model):
    """A number for every base parameter that changes when its values do."""
    return {name: checksum(parameter) for name, parameter in model.named_parameters()}


def checksum(parameter):
    import torch

    flat = parameter.detach().reshape(-1).contiguous()
    bits = (
        flat.view(torch.uint8).to(torch.int64)
        if flat.element_size() == 1
        else flat.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()])
    )
    total = 0
    for part in bits.split(1 << 22):
        total = (total * 31 + int(part.to(torch.int64).sum())) & 0xFFFFFFFFFFFF
    return total


def changed(peft_model, sums):
    """Base parameters whose checksum is another after the load, by their name in the base."""
    found = []
    for name, parameter in peft_model.get_base_model().named_parameters():
        plain = re.sub(r"\.(base_layer|original_module)(?=\.)", "", name)
        if plain in sums and not parameter.is_meta and sums[plain] != checksum(parameter):
            found.append(plain)
    return found


def main():
    # Nobody answers questions here, and whatever the libraries print must not end up among the answers.
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    def say(**what):
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    try:
        say(progress="importing torch, transformers and peft")
        import peft  # noqa: F401
        import torch
        import transformers  # noqa: F401
    except BaseException as error:
        say(answer={"versions": versions(), "import_error": "%s: %s" % (type(error).__name__, str(error)[:2000])})
        return
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    for line in requests:
        request = json.loads(line)
        say(progress="loading")
        try:
            result = answer(request)
        except Exception as error:
            result = {"versions": versions(), "crashed": "%s: %s" % (type(error).__name__, str(error)[:2000])}
        say(answer=result)
        gc.collect()


if __name__ == "__main__":
    main()
