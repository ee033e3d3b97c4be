"""Where a file of the package may lie, which way imports run, and that tests lie where the code lies."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "llava"
TESTS = REPOSITORY / "tests"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Names that users of the original import or run; they lie where the original has them.
ORIGINALS = {
    "constants",
    "conversation",
    "mm_utils",
    "eval/m4c_evaluator",
    "model/builder",
    "model/llava_arch",
    "train/llava_trainer",
}
# What every folder stands on, and the public name for prompts.
FOUNDATIONS = {"command_line", "errors", "prompting", "template_choice"}

# Each name may import those before it.
LAYERS = [
    {
        *("", "command_line", "constants", "conversation", "errors", "files", "images", "mm_utils", "pocket"),
        *("prompting", "reports", "template_choice", "templates", "text_generation"),
    },
    {"model"},
    {"engine"},
    {"serve", "train"},
    {"eval"},
    {"__main__", "doctor", "commands"},
]


def module_of(source: Path) -> str:
    parts = source.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(source): source for source in SOURCES}


def imports_of(source: Path) -> Iterator[str]:
    """Every module of the package that a file imports, at its top, inside a function or for its types."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


GRAPH = {module: sorted(set(imports_of(source)) - {module}) for module, source in MODULES.items()}
GRAPH["llava"] = []  # it names what every layer offers, and loads none of it before it is asked for


def is_command(source: Path) -> bool:
    return '__name__ == "__main__"' in source.read_text(encoding="utf-8")


def test_a_file_directly_in_a_main_folder_is_a_command_or_a_name_of_the_original():
    misplaced = []
    for folder in (PACKAGE, *(PACKAGE / name for name in ("serve", "eval", "model", "train"))):
        for source in folder.glob("*.py"):
            name = source.relative_to(PACKAGE).with_suffix("").as_posix()
            if source.name != "__init__.py" and name not in ORIGINALS | FOUNDATIONS and not is_command(source):
                misplaced.append(name)
    assert misplaced == [], "move these into a folder named for their trade"


@pytest.mark.parametrize(("folder", "most"), [("serve", 16), ("eval", 36)])
def test_the_main_folders_can_be_read_at_a_glance(folder: str, most: int):
    assert len([source for source in (PACKAGE / folder).glob("*.py") if source.name != "__init__.py"]) <= most


def layer_of(module: str) -> int:
    name = module.split(".")[1] if "." in module else ""
    return next(number for number, names in enumerate(LAYERS) if name in names)


def test_imports_run_one_way():
    wrong = []
    for module, imported in GRAPH.items():
        for other in imported:
            if layer_of(other) > layer_of(module):
                wrong.append(f"{module} imports {other}")
            if module.startswith("llava.train") and other.startswith("llava.serve"):
                wrong.append(f"{module} imports {other}")
            if module.startswith("llava.serve") and other.startswith("llava.train"):
                wrong.append(f"{module} imports {other}")
    assert wrong == []


@pytest.mark.parametrize("start", ["llava.serve.controller", "llava.serve.gradio_web_server"])
def test_controller_and_page_never_reach_model_or_engine(start: str):
    reached, waiting = set(), [start]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += GRAPH[module]
    assert [name for name in sorted(reached) if name.startswith(("llava.model", "llava.engine"))] == []


def test_no_imports_run_in_a_circle():
    """A package's own `__init__` counts by what it imports, as any other file."""
    done: set[str] = set()
    path: list[str] = []

    def walk(module: str) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for other in GRAPH[module]:
            walk(other)
        path.pop()
        done.add(module)

    for module in GRAPH:
        walk(module)


@pytest.mark.parametrize("tier", ["unit", "integration", "e2e"])
def test_tests_lie_where_the_code_lies(tier: str):
    """`tests/unit/serve/worker/test_choices_of_one_request.py` tests `llava/serve/worker/choices.py`."""
    astray = []
    for test in (TESTS / tier).rglob("test_*.py"):
        folder = test.parent.relative_to(TESTS / tier)
        if folder == Path():
            continue  # what concerns the repository as a whole
        home = REPOSITORY / folder if folder.parts[0] == "scripts" else PACKAGE / folder
        names = {path.stem for path in home.glob("*.*")} | {path.name for path in home.glob("*/")} | {home.name}
        named = test.stem.removeprefix("test_")
        if not any(named == name or named.startswith(f"{name}_") for name in names):
            astray.append(f"{test.relative_to(TESTS)} names nothing in {home.relative_to(REPOSITORY)}")
    assert astray == []


def test_no_two_public_classes_share_a_name():
    homes: dict[str, list[str]] = {}
    for module, source in MODULES.items():
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}
