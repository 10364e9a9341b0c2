"""Writes the tables in `adapter_doctor/knowledge/` from the sources of PEFT and transformers.

    python scripts/build_knowledge.py peft [--cache DIR]   downloads every PEFT release, reads it, does not run it
    python scripts/build_knowledge.py targets              asks the installed PEFT
    python scripts/build_knowledge.py architectures        asks the installed transformers

After a new PEFT release: add it to `RELEASES`, install it, run the first two and read the diff.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

KNOWLEDGE = Path(__file__).resolve().parent.parent / "adapter_doctor" / "knowledge"
WRITTEN_BY = "scripts/build_knowledge.py"

RELEASES = (
    *("0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.6.1", "0.6.2", "0.7.0", "0.7.1", "0.8.0", "0.8.1", "0.8.2"),
    *("0.9.0", "0.10.0", "0.11.0", "0.11.1", "0.12.0", "0.13.0", "0.13.1", "0.13.2", "0.14.0", "0.15.0", "0.15.1"),
    *("0.15.2", "0.16.0", "0.17.0", "0.17.1", "0.18.0", "0.18.1", "0.19.0", "0.19.1", "0.20.0", "0.21.0", "0.21.1"),
    "0.21.2",
)

REMOVED_FROM_TRANSFORMERS = {"HybridCache": ">=5.0"}
"""Names that PEFT has imported from transformers, and the versions of transformers that no longer have them."""

AUTO_MAPPINGS = {
    "BASE": "MODEL_MAPPING_NAMES",
    "CAUSAL_LM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "IMAGE_CLS": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "IMAGE_TEXT": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MASKED_LM": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "SEQ_2_SEQ_LM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "SPEECH": "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
}
"""PEFT's task types, and a few more heads, by the table of transformers that names their classes."""


# ------------------------------------------------------------------------------------------------ writing


def dump(value: Any, depth: int, indent: str = "") -> str:
    """JSON with sorted keys that starts a new line for every item down to ``depth`` levels, and none below."""
    if depth == 0 or not isinstance(value, dict) or not value:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    inner = indent + " "
    items = (f"{inner}{json.dumps(key)}: {dump(value[key], depth - 1, inner)}" for key in sorted(value))
    return "{\n" + ",\n".join(items) + f"\n{indent}}}"


def write(name: str, table: dict[str, Any], depth: int) -> None:
    path = KNOWLEDGE / name
    path.write_text(dump({"written_by": WRITTEN_BY, **table}, depth) + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


# ------------------------------------------------------------------------------------------------ peft, by release


class Release:
    """The sources of one PEFT release: parsed, never imported."""

    def __init__(self, version: str, wheel: Path) -> None:
        self.version = version
        with zipfile.ZipFile(wheel) as archive:
            self.trees = {name: ast.parse(archive.read(name)) for name in archive.namelist() if name.endswith(".py")}

    def path(self, module: str) -> str | None:
        """The file of a module; as for Python, a package hides the file of the same name (0.6.2 ships both)."""
        stem = module.replace(".", "/")
        return next((path for path in (f"{stem}/__init__.py", f"{stem}.py") if path in self.trees), None)

    def resolve(self, path: str, name: str) -> tuple[str, ast.ClassDef] | None:
        """Where the class that ``name`` stands for in the file ``path`` is defined, following imports inside PEFT."""
        for node in ast.walk(self.trees[path]):
            if isinstance(node, ast.ClassDef) and node.name == name:
                return path, node
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        source = self.path(imported_module(path, node))
                        return self.resolve(source, alias.name) if source else None
        return None

    def config_classes(self) -> dict[str, tuple[str, ast.ClassDef]]:
        """The config class of every PEFT type, from the table (until 0.14) or the registering calls (since 0.15).

        `LORAPLUS`, in the table of 0.13 and 0.14, is no member of the enum and no config says it: it is left out.
        """
        found = {}
        types = self.known_types()
        for path, tree in self.trees.items():
            for node in ast.walk(tree):
                for peft_type, class_name in registrations(node):
                    home = self.resolve(path, class_name)
                    if home is None:
                        raise ValueError(f"peft {self.version}: {path} names {class_name}, which is not found")
                    if peft_type in types:
                        found[peft_type] = home
        if found.keys() != types:
            raise ValueError(f"peft {self.version}: no config class is found for {types - found.keys()}")
        return found

    def known_types(self) -> set[str]:
        """The members of the enum ``PeftType``."""
        enum = self.resolve("peft/__init__.py", "PeftType")
        assert enum
        return {ast.unparse(node.targets[0]) for node in enum[1].body if isinstance(node, ast.Assign)}

    def fields(self, path: str, node: ast.ClassDef) -> dict[str, dict[str, Any]]:
        """The dataclass fields of a class, inherited ones included, as ``{name: {type, default, home}}``."""
        found: dict[str, dict[str, Any]] = {}
        unsaved: set[str] = set()
        for base in reversed(node.bases):
            home = self.resolve(path, ast.unparse(base))
            if home:
                found |= self.fields(*home)
        is_dataclass = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and is_dataclass:
                annotation = ast.unparse(item.annotation)
                if not annotation.startswith(("ClassVar", "InitVar")):
                    found[item.target.id] = {"type": annotation, "default": default_of(item.value), "home": path}
            if isinstance(item, ast.FunctionDef) and item.name == "to_dict":
                unsaved |= set(popped(item))
        for name in unsaved & found.keys():
            found[name] = {**found[name], "saved": False}
        return found

    def nested(self, fields: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, ast.ClassDef]]:
        """The dataclasses of PEFT that the types of some fields name."""
        for field in fields.values():
            for name in ast.walk(ast.parse(field["type"], mode="eval")):
                home = self.resolve(field["home"], name.id) if isinstance(name, ast.Name) else None
                if home and home[1].decorator_list:
                    yield home

    def imports(self) -> set[str]:
        """The names that ``peft_model.py`` takes from transformers when it is imported."""
        path = self.path("peft.peft_model")
        assert path
        nodes = [node for node in self.trees[path].body if isinstance(node, ast.ImportFrom)]
        return {alias.name for node in nodes if node.module == "transformers" for alias in node.names}


def imported_module(path: str, node: ast.ImportFrom) -> str:
    """The absolute name of the module that a ``from … import`` in the file ``path`` reads."""
    if not node.level:
        return node.module or ""
    package = path.split("/")[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def registrations(node: ast.AST) -> Iterator[tuple[str, str]]:
    """The (PEFT type, config class) pairs that one node declares."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "register_peft_method":
        values = {keyword.arg: keyword.value for keyword in node.keywords}
        yield ast.literal_eval(values["name"]).upper(), ast.unparse(values["config_cls"])
    if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if ast.unparse(target) == "PEFT_TYPE_TO_CONFIG_MAPPING":
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                assert key
                yield ast.unparse(key).removeprefix("PeftType.").strip("'"), ast.unparse(value)


def default_of(value: ast.expr | None) -> str:
    """The default of a dataclass field as text: a Python expression, ``factory:…`` or ``required``."""
    if value is None:
        return "required"
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("field", "dataclasses.field"):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in value.keywords}
        if "default_factory" in keywords:
            return f"factory:{keywords['default_factory']}"
        return keywords.get("default", "required")
    return ast.unparse(value)


def popped(function: ast.FunctionDef) -> Iterator[str]:
    """The keys that a ``to_dict`` takes out of what it returns: fields that are never saved."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "pop":
            yield ast.literal_eval(node.args[0])


def span(versions: list[str], what: str) -> dict[str, str | None]:
    """The first and last of ``versions``; a hole between them would make the table say something false."""
    first, last = RELEASES.index(versions[0]), RELEASES.index(versions[-1])
    if tuple(versions) != RELEASES[first : last + 1]:
        raise ValueError(f"{what} comes and goes: {versions}")
    return {"first": versions[0], "last": None if versions[-1] == RELEASES[-1] else versions[-1]}


def field_spans(by_release: dict[str, dict[str, dict[str, Any]]], what: str) -> dict[str, dict[str, Any]]:
    """Turn ``{release: {field: …}}`` into ``{field: {first, last, type, defaults}}``."""
    table: dict[str, dict[str, Any]] = {}
    for name in {name for fields in by_release.values() for name in fields}:
        history = {release: fields[name] for release, fields in by_release.items() if name in fields}
        defaults: list[list[str]] = []
        for release, field in history.items():
            if not defaults or defaults[-1][1] != field["default"]:
                defaults.append([release, field["default"]])
        newest = list(history.values())[-1]
        table[name] = {**span(list(history), f"{what}.{name}"), "type": newest["type"], "defaults": defaults}
        if not newest.get("saved", True):
            table[name]["saved"] = False
    return table


def download(cache: Path) -> Iterator[Release]:
    """Every release, oldest first; wheels that lie in ``cache`` are not fetched again."""
    for version in RELEASES:
        if not list(cache.glob(f"peft-{version}-*.whl")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*command, "--dest", str(cache), f"peft=={version}"], check=True)
        yield Release(version, next(cache.glob(f"peft-{version}-*.whl")))


def build_peft(cache: Path) -> None:
    types: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    subconfigs: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    breaks: dict[str, list[str]] = defaultdict(list)
    for release in download(cache):
        for peft_type, home in release.config_classes().items():
            types[peft_type][release.version] = release.fields(*home)
            for path, node in release.nested(types[peft_type][release.version]):
                subconfigs[node.name][release.version] = release.fields(path, node)
        for name in release.imports() & REMOVED_FROM_TRANSFORMERS.keys():
            breaks[name].append(release.version)

    def table(found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
        return {key: {**span(list(by), key), "fields": field_spans(by, key)} for key, by in found.items()}

    import_breaks = [
        {
            "peft": versions,
            "transformers": REMOVED_FROM_TRANSFORMERS[name],
            "error": f"ImportError: cannot import name '{name}' from 'transformers'",
        }
        for name, versions in sorted(breaks.items())
    ]
    facts = {"releases": RELEASES, "types": table(types), "subconfigs": table(subconfigs)}
    write("peft_fields.json", {**facts, "import_breaks": import_breaks}, depth=4)


# ------------------------------------------------------------------------------------------------ targets


def build_targets() -> None:
    import peft
    from peft.auto import MODEL_TYPE_TO_PEFT_MODEL_MAPPING
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG
    from peft.utils import constants

    targets: dict[str, Any] = {
        str(peft_type.value): dict(mapping)
        for peft_type, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()
        if (mapping := getattr(tuner, "target_module_mapping", None))
    }
    # These do not name their table, or have a default beside it: it is in their methods.
    targets["IA3"] = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    targets["ADAPTION_PROMPT"] = {name: config.target_modules for name, config in TRANSFORMERS_MODEL_CONFIG.items()}
    targets["OSF"]["*"] = constants.INCLUDE_LINEAR_LAYERS_SHORTHAND
    tables = {name: table for name, table in vars(constants).items() if name.endswith("_TARGET_MODULES_MAPPING")}
    unused = [name for name, table in tables.items() if table not in targets.values() and "OSF" not in name]
    if unused:
        raise ValueError(f"no tuner is known to use {unused}")
    for peft_type in targets.keys() - {"LORA"}:
        if targets[peft_type] == targets["LORA"]:
            targets[peft_type] = "LORA"

    saved = {task: saved_by(model) for task, model in MODEL_TYPE_TO_PEFT_MODEL_MAPPING.items()}
    table = {
        "peft": peft.__version__,
        "targets": targets,
        "feedforward": constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
        "embedding_layers": constants.EMBEDDING_LAYER_NAMES,
        "classifier_heads": constants.SEQ_CLS_HEAD_NAMES,
        "prefixes": {str(peft_type.value): prefix for peft_type, prefix in PEFT_TYPE_TO_PREFIX_MAPPING.items()},
        "saved_by_task": {task.value: saved[task.value] for task in peft.TaskType},
    }
    write("peft_targets.json", table, depth=3)


def saved_by(model_class: type) -> list[str]:
    """The names that a task's model class adds to `modules_to_save`: the list that its constructor starts from."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(model_class.__init__)))  # type: ignore[misc]
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("_module_names"):
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


# ------------------------------------------------------------------------------------------------ architectures


def build_architectures() -> None:
    import transformers
    from transformers import conversion_mapping
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    aliases = conversion_mapping._MODEL_TO_CONVERSION_PATTERN
    registered = {
        key: [conversion(transform) for transform in transforms]
        for key, transforms in conversion_mapping._build_checkpoint_conversion_mapping().items()
    }
    tables = {task: getattr(modeling_auto, name) for task, name in AUTO_MAPPINGS.items()}
    models = models_by_type()
    by_name = {model.__name__: model for classes in models.values() for model in classes}
    named = {
        model_type: {task: first(table[model_type]) for task, table in tables.items() if model_type in table}
        for model_type in CONFIG_MAPPING_NAMES.keys() | models.keys()
    }
    for model_type in named.keys() - models.keys():  # gpt-sw3 and the like: another type's config and classes
        models[model_type] = [by_name[name] for name in named[model_type].values() if name in by_name]
    converted = converted_types(models, registered.keys())
    types = {}
    for model_type, classes in models.items():
        heads = {task: by_name[name] for task, name in named[model_type].items() if name in by_name}
        types[model_type] = {
            **prefixes_of(heads, classes),
            "classes": named[model_type],
            "converted": model_type in converted,
            "conv1d": any(hasattr(sys.modules[model.__module__], "Conv1D") for model in classes),
            # Experts stored as (experts, in, out) instead of (experts, out, in), which turns LoRA's factors round.
            "transposed": any(
                "is_transposed=True" in inspect.getsource(sys.modules[one.__module__]) for one in classes
            ),
        }
    own = {key: steps for key, steps in registered.items() if steps != registered.get(aliases.get(key, ""))}
    table = {
        "transformers": transformers.__version__,
        "types": types,
        "conversions": own,
        "conversion_aliases": {key: value for key, value in aliases.items() if key not in own},
    }
    write("architectures.json", table, depth=2)


def models_by_type() -> dict[str, list[Any]]:
    """Every model class of transformers by the model type of its config; files that need what is not here are named."""
    import transformers

    found: dict[str, list[Any]] = defaultdict(list)
    for path in sorted(Path(transformers.__file__).parent.glob("models/**/modeling_*.py")):
        name = ".".join(["transformers", *path.relative_to(Path(transformers.__file__).parent).with_suffix("").parts])
        try:
            module = importlib.import_module(name)
        except (ImportError, RuntimeError) as error:
            print(f"left out {name}: {error}", file=sys.stderr)
            continue
        classes: list[Any] = [value for value in vars(module).values() if inspect.isclass(value)]
        for model in classes:
            if issubclass(model, transformers.PreTrainedModel) and model.__module__ == name:
                model_type = getattr(model.config_class, "model_type", "")
                if model_type:
                    found[model_type].append(model)
    return found


def converted_types(models: Mapping[str, list[Any]], registered: Collection[str]) -> set[str]:
    """The model types that have a conversion, whose classes have one, or one of whose parts has one.

    The parts are those that the config class has by default; a config that names others has to be asked about each.
    """
    parts = {
        model_type: {
            getattr(part.config_class, "model_type", "") or part.model_type
            for model in classes
            for part in model.config_class.sub_configs_defaults.values()
        }
        for model_type, classes in models.items()
    }
    found = {
        model_type
        for model_type, classes in models.items()
        if model_type in registered or any(model.__name__ in registered for model in classes)
    }
    while more := {model_type for model_type in parts.keys() - found if parts[model_type] & found}:
        found |= more
    return found


def first(name: str | tuple[str, ...]) -> str:
    return name if isinstance(name, str) else name[0]


def prefixes_of(heads: Mapping[str, Any], models: list[Any]) -> dict[str, Any]:
    """The attribute under which the heads of a model type keep its trunk, and the heads that do it differently."""
    prefixes = {
        task: model.base_model_prefix if keeps(model) else "" for task, model in heads.items() if task != "BASE"
    }
    usual = Counter(prefixes.values() or [model.base_model_prefix for model in models]).most_common(1)
    prefix = usual[0][0] if usual else None
    others = {task: other for task, other in prefixes.items() if other != prefix}
    return {"prefix": prefix, "other_prefixes": others} if others else {"prefix": prefix}


def keeps(model: Any) -> bool:
    """Whether a class has its trunk under `base_model_prefix`: Llama4ForCausalLM, for one, says `language_model` and has none."""
    made = [
        vars(one)["__init__"] for one in model.__mro__ if "__init__" in vars(one) and "transformers" in one.__module__
    ]
    source = "".join(inspect.getsource(one) for one in made)
    return any(sign in source for sign in (f"self.{model.base_model_prefix} =", "self, self.base_model_prefix,"))


def conversion(transform: Any) -> dict[str, Any]:
    """One step of a checkpoint's conversion, as data.

    `rename` replaces the first match of a pattern in a name by the (only) target, `group` does so pairwise and only if
    the checkpoint has a name that the first pattern matches, `offset` adds to the number it captures, and `convert`
    also computes with the tensors.
    """
    from transformers.core_model_loading import GroupWeightRename, WeightConverter

    step = {"kind": "rename", "from": transform.source_patterns, "to": transform.target_patterns}
    if isinstance(transform, WeightConverter):
        return {**step, "kind": "convert", "ops": [operation(op) for op in transform.operations]}
    if isinstance(transform, GroupWeightRename):
        return {**step, "kind": "group"}
    if hasattr(transform, "offset"):
        return {**step, "kind": "offset", "offset": transform.offset}
    return step


def operation(op: Any) -> str:
    """An operation on tensors as it would be written, e.g. `MergeModulelist(dim=0)`."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in vars(op).items() if value is not None)
    return f"{type(op).__name__}({arguments})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["peft", "targets", "architectures"])
    parser.add_argument("--cache", type=Path, help="where the wheels of PEFT are kept (default: a temporary folder)")
    arguments = parser.parse_args()
    KNOWLEDGE.mkdir(exist_ok=True)
    if arguments.table == "targets":
        build_targets()
    elif arguments.table == "architectures":
        build_architectures()
    elif arguments.cache:
        arguments.cache.mkdir(parents=True, exist_ok=True)
        build_peft(arguments.cache)
    else:
        with tempfile.TemporaryDirectory() as cache:
            build_peft(Path(cache))


if __name__ == "__main__":
    main()
