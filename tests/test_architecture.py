"""The shape of the house: which part may import which, what stays unloaded, and that every module says what it is."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import patient
import pytest

import adapter_doctor

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "adapter_doctor"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "transformers", "peft", "huggingface_hub"}

# Which parts of the package each part may import. A part is a module or folder directly below adapter_doctor/.
_WORDS = {"findings", "facts"}
_PURE = _WORDS | {"formats", "knowledge"}
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": {
        "doctor",
        "errors",
        "explanation",
        "fixing",
        "inspection",
        "publish",
        "repair",
        "report",
        "resumption",
        "under_traceback",
    },
    "__main__": {"cli"},
    "errors": set(),
    "findings": set(),
    "facts": {"findings"},
    "formats": {"facts"},
    "knowledge": {"formats"},
    "renames": _PURE,
    "shapes": _PURE,
    "remote_code": _PURE,
    "comparison": _PURE | {"remote_code", "renames"},
    "identity": _PURE,
    "scaling": _PURE,
    "merging": _PURE,
    "inspection": _PURE | {"identity", "remote_code", "scaling", "merging"},
    "placement": _PURE | {"shapes"},
    "serving": _PURE | {"errors"},
    "rules": _PURE,
    "engine": _WORDS | {"rules"},
    "diagnosis": _WORDS | {"rules", "engine"},
    "suppression": _WORDS | {"rules", "engine"},
    "notebook": set(),
    "picture": _PURE,
    "selection": {"engine", "errors", "findings", "rules"},
    "settings": {"errors", "formats", "suppression"},
    "report": _WORDS | {"knowledge", "rules", "engine", "diagnosis", "errors", "suppression", "picture"},
    "render": _WORDS
    | {
        "rules",
        "engine",
        "diagnosis",
        "errors",
        "report",
        "suppression",
        "inspection",
        "knowledge",
        "merged",
        "picture",
        "repair",
    },
    "reference": {"errors"},
    "sources": {"errors", "reference"},
    "gather": _PURE | {"errors", "reference", "sources"},
    "loading": _PURE | {"errors", "sources", "gather"},
    "merged": _PURE | {"errors", "sources", "gather"},
    "repair": _PURE
    | {"serving", "errors", "sources", "gather", "renames", "comparison", "placement", "shapes", "report"},
    "texts": _PURE | {"renames", "comparison", "placement"},
    "trainables": _PURE,
    "opening": _WORDS | {"errors", "reference", "sources"},
    "derive": _PURE | {"errors", "reference", "sources", "gather", "loading", "comparison", "placement", "identity"},
}
# They may import everything; only `cli` may import `cli`.
FIRST_PARTIES_OF_NOBODY = {"doctor", "explanation", "fixing", "publish", "resumption", "under_traceback", "cli"}
# Exceptions, each with its reason.
LAZY = {
    ("report", "notebook"): "an error that is a report shows itself, where a notebook asks it to",
    (
        "report",
        "render",
    ): "a report shows itself (`str`, `to_dict`): the renderer is asked when it is, not imported before",
    ("inspection", "render"): "as a report does",
    ("repair", "render"): "as a report does",
}
LONGER = {
    "loading/child.py": "one file by necessity: it is handed as it is to the interpreter of another environment",
    "facts.py": "the vocabulary of all rules, read in one place",
}
MOST_LINES = 400


@dataclass(frozen=True)
class Import:
    """An import statement: the module's full name, and whether it is inside a function or only for type checking."""

    name: str
    line: int
    inside: bool
    typing: bool


@cache
def imports(path: Path) -> tuple[Import, ...]:
    tree = ast.parse(path.read_text("utf-8"))
    return tuple(_imports(tree, path, inside=False, typing=False))


def _imports(node: ast.AST, path: Path, *, inside: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(one.name, child.lineno, inside, typing) for one in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{path}:{child.lineno}: imports are absolute here"
            module = child.module or ""
            for one in child.names:
                whole = f"{module}.{one.name}"
                yield Import(whole if _is_module(whole) else module, child.lineno, inside, typing)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from _imports(child, path, inside=inside or function, typing=typing or checking)


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def part_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def said(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def ids(path: Path) -> str:
    return said(path).removesuffix(".py")


def test_every_part_has_its_place_in_the_order() -> None:
    assert {part_of(path) for path in MODULES} - set(MAY_IMPORT) <= FIRST_PARTIES_OF_NOBODY


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_imports_run_one_way(path: Path) -> None:
    part = part_of(path)
    wrong = []
    for one in imports(path):
        if one.name.partition(".")[0] != "adapter_doctor":
            continue
        other = one.name.split(".")[1] if "." in one.name else "__init__"
        allowed = other == part or part == "cli" or (part in FIRST_PARTIES_OF_NOBODY and other != "cli")
        allowed = allowed or other in MAY_IMPORT.get(part, ()) or (one.inside and (part, other) in LAZY)
        if not allowed and not (other == "__init__" and part != "rules"):
            wrong.append(f"{said(path)}:{one.line} imports {one.name}")

    assert wrong == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "rules").rglob("*.py")), ids=ids)
def test_rules_import_nothing_from_outside(path: Path) -> None:
    names = {one.name.partition(".")[0] for one in imports(path)}

    assert names - set(sys.stdlib_module_names) <= {"adapter_doctor"}


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_heavy_libraries_are_imported_behind_their_doors(path: Path) -> None:
    doors = {
        "loading/child.py": {"torch", "transformers", "peft", "huggingface_hub"},
        "doctor.py": {"peft"},
        "sources/hub.py": {"huggingface_hub"},
        "sources/hub_cache.py": {"huggingface_hub"},
        "publish/hub.py": {"huggingface_hub"},
        "publish/card.py": {"huggingface_hub"},
        "publish/guard.py": {"peft"},
    }
    for one in imports(path):
        library = one.name.partition(".")[0]
        if library in HEAVY and not one.typing:
            assert one.inside, f"{said(path)}:{one.line} imports {one.name} when it is itself imported"
            assert library in doors.get(said(path), ()), f"{said(path)}:{one.line} imports {one.name}"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    if part_of(path) == "cli":
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    found = {ast.unparse(call.func) for call in calls}
    found &= {
        "print",
        "exit",
        "quit",
        "sys.exit",
        "SystemExit",
        "sys.stdout.write",
        "sys.stderr.write",
        "warnings.warn",
    }
    if said(path) == "loading/child.py":  # a program of its own, whose output is the answer
        found -= {"sys.exit", "sys.stdout.write", "print"}

    assert found == set()


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_module_is_small_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text("utf-8")
    docstring = ast.get_docstring(ast.parse(text)) or ""

    assert docstring.partition("\n")[0].endswith((".", ":", ",")), "a module opens with a sentence"
    assert said(path) in LONGER or text.count("\n") <= MOST_LINES


def test_no_module_is_called_after_nothing() -> None:
    empty = {"utils", "util", "helpers", "common", "base", "manager", "misc"}

    assert {said(path) for path in MODULES if empty & {path.stem, path.parent.name}} == {"gather/base.py"}


def test_exceptions_are_still_needed() -> None:
    long = {said(path) for path in MODULES if path.read_text("utf-8").count("\n") > MOST_LINES}
    lazy = {
        (part_of(path), one.name.split(".")[1])
        for path in MODULES
        for one in imports(path)
        if one.inside and one.name.startswith("adapter_doctor.")
    }

    assert set(LONGER) <= long
    assert set(LAZY) <= lazy


def test_public_names_are_there_sorted_and_complete() -> None:
    names = adapter_doctor.__all__
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    typed = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        for child in node.body
        if isinstance(child, ast.ImportFrom)
        for name in child.names
    }

    assert names == sorted(names)
    assert set(names) == typed
    assert all(getattr(adapter_doctor, name).__name__ == name for name in names)


_RUN = """
import json, sys
from adapter_doctor.cli import application
try:
    application(sys.argv[1:2] if not sys.argv[1].startswith("-") else ["check", "rules"])(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("\\n" + json.dumps([code or 0, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def run(*arguments: str) -> tuple[int, set[str]]:
    """The exit code of a command, and the top-level modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout, done.stderr
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules)


def test_help_and_the_list_of_rules_import_no_heavy_library() -> None:
    for arguments in (["--help"], ["rules"]):
        code, modules = run(*arguments)

        assert code == 0
        assert modules & HEAVY == set()


def test_static_check_of_the_patient_finds_it_healthy_without_a_heavy_library(tmp_path: Path) -> None:
    base, adapter = patient.write(tmp_path)

    code, modules = run("check", str(base), str(adapter), "--load", "no")

    assert code == 0
    assert modules & HEAVY == set()
