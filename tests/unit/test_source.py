"""What the package's source may not contain, whoever writes it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "llava"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Each of these runs code, or builds objects, that whoever wrote the bytes has chosen.
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {("yaml", "load"), ("yaml", "unsafe_load"), ("numpy", "load"), ("np", "load"), ("os", "system")}


def forbidden(tree: ast.AST) -> list[str]:
    """Line and name of everything that may not be there."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").partition(".")[0]} & MODULES
            if {alias.name for alias in node.names} - {"UnpicklingError"} <= harmless_unpicklers(tree):
                names = set()
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names = {node.func.id} & CALLS
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            names = attribute_call(node)
        else:
            continue
        found += [f"line {node.lineno}: {name}" for name in names]
    return found


def harmless_unpicklers(tree: ast.AST) -> set[str]:
    """{"Unpickler"} if it is only ever the base of classes whose own `find_class` refuses what it does not list."""
    uses = [node for node in ast.walk(tree) if is_name(node, "Unpickler")]
    bases = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
            if "find_class" in methods and is_a_list(methods["find_class"]):
                bases += [base for base in node.bases if is_name(base, "Unpickler")]
    return {"Unpickler"} if bases and len(uses) == len(bases) else set()


def is_a_list(find_class: ast.FunctionDef) -> bool:
    asks_others = any(is_name(node, "super") or is_name(node, "getattr") for node in ast.walk(find_class))
    return isinstance(find_class.body[-1], ast.Raise) and not asks_others


def is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def attribute_call(call: ast.Call) -> set[str]:
    assert isinstance(call.func, ast.Attribute)
    owner = call.func.value.id if isinstance(call.func.value, ast.Name) else ""
    name = f"{owner}.{call.func.attr}"
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if (owner, call.func.attr) in ATTRIBUTES:
        return {name}
    if (owner, call.func.attr) == ("torch", "load"):
        safe = keywords.get("weights_only")
        return set() if isinstance(safe, ast.Constant) and safe.value is True else {f"{name} without weights_only=True"}
    trusts = keywords.get("trust_remote_code")
    if trusts is not None and not (isinstance(trusts, ast.Constant) and trusts.value is False):
        return {f"{name} with trust_remote_code"}
    shell = keywords.get("shell")
    return {f"{name} with shell"} if isinstance(shell, ast.Constant) and shell.value else set()


def test_nothing_in_the_package_runs_code_that_came_as_data():
    found = {source: forbidden(ast.parse(source.read_text(encoding="utf-8"))) for source in SOURCES}
    assert {str(source.relative_to(PACKAGE)): lines for source, lines in found.items() if lines} == {}


def test_no_message_sends_a_user_of_the_wheel_to_a_file_of_the_checkout():
    sent = []
    for source in SOURCES:
        tree = ast.parse(source.read_text(encoding="utf-8"))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)}
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        sent += [
            f"{source.relative_to(PACKAGE)}, line {text.lineno}: {text.value}"
            for text in texts
            if text.value not in docstrings and ("scripts/" in text.value or "constraints.txt" in text.value)
        ]
    assert sent == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "from pickle import Unpickler",
        "from pickle import Unpickler\nUnpickler(file).load()",
        "from pickle import Unpickler\nclass Reader(Unpickler):\n    pass",
        "from pickle import Unpickler\nclass R(Unpickler):\n    def find_class(self, a): return super().find_class(a)",
        "from pickle import Unpickler\nclass R(Unpickler):\n    def find_class(self, a, b): return getattr(a, b)",
        "eval(text)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_this_test_can_fail(line: str):
    assert forbidden(ast.parse(line))
