"""`import llava` and every `--help` stay free of the libraries that take seconds to load."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

import llava
from llava.__main__ import ALIASES, COMMANDS

HEAVY = ("torch", "transformers", "gradio", "accelerate", "peft", "wandb", "numpy", "pandas", "matplotlib", "openai")

# Runs a module or file as `python` would, and prints which of HEAVY it loaded once it has exited.
PROBE = f"""
import json, runpy, sys
kind, target, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = target
code = None
try:
    {{"module": lambda: runpy.run_module(target, run_name="__main__", alter_sys=True),
      "file": lambda: runpy.run_path(target, run_name="__main__"),
      "import": lambda: __import__(target)}}[kind]()
except SystemExit as stop:
    code = stop.code
print()
print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]))
"""

COMMAND_MODULES = sorted({command.module for command in COMMANDS.values()} | {"llava.train.train_mem", "llava"})
COMMAND_FILES = [
    "llava/train/train.py",
    "llava/train/train_mem.py",
    "llava/eval/eval_gpt_review.py",
    "llava/eval/eval_gpt_review_bench.py",
    "llava/eval/eval_gpt_review_visual.py",
    "llava/eval/model_vqa.py",
    "llava/eval/model_vqa_science.py",
    "llava/eval/eval_science_qa.py",
    "llava/eval/eval_science_qa_gpt4.py",
    "llava/eval/eval_science_qa_gpt4_requery.py",
    "llava/eval/generate_webpage_data_from_table.py",
    "llava/eval/qa_baseline_gpt35.py",
    "llava/eval/summarize_gpt_review.py",
    "scripts/convert_sqa_to_llava",
    "scripts/convert_sqa_to_llava.py",
    "scripts/extract_mm_projector.py",
]


def probe(run_python, *arguments: str) -> tuple[object, list[str], str]:
    done = run_python("-c", PROBE, *arguments)
    assert done.returncode == 0, done.stderr
    *text, last = done.stdout.splitlines()
    code, loaded = json.loads(last)
    return code, loaded, "\n".join(text)


@pytest.mark.parametrize(
    "command",
    [
        ("module", "llava.eval.eval_science_qa"),
        ("file", "llava/eval/eval_science_qa.py"),
        ("module", "llava", "eval", "science-qa"),
    ],
    ids=" ".join,
)
def test_marking_answers_loads_none_of_the_large_libraries(command, run_python, data):
    golden = data / "golden" / "science_qa"
    words = ("--base-dir", str(golden), "--result-file", str(golden / "sqa_pred.jsonl"))
    code, loaded, text = probe(run_python, *command, *words)
    assert (code, loaded) == (0, [])
    assert text.startswith("Total: 12, Correct: 8")


def test_importing_llava_loads_none_of_the_large_libraries(run_python):
    assert probe(run_python, "import", "llava")[1] == []


@pytest.mark.parametrize("module", ["llava.conversation", "llava.constants", "llava.errors", "llava.doctor"])
def test_modules_of_plain_data_load_none_of_the_large_libraries(module, run_python):
    assert probe(run_python, "import", module)[1] == []


@pytest.mark.parametrize("module", COMMAND_MODULES)
def test_help_of_a_module_loads_none_of_the_large_libraries(module, run_python):
    code, loaded, text = probe(run_python, "module", module, "--help")
    assert (code, loaded) == (0, [])
    assert "usage:" in text


@pytest.mark.parametrize("file", COMMAND_FILES)
def test_help_of_a_file_loads_none_of_the_large_libraries(file, run_python):
    code, loaded, text = probe(run_python, "file", file, "--help")
    assert (code, loaded) == (0, [])
    assert "usage:" in text


@pytest.mark.parametrize("word", [*COMMANDS, *ALIASES])
def test_help_through_llava_loads_none_of_the_large_libraries(word, run_python):
    code, loaded, text = probe(run_python, "module", "llava", word, "--help")
    assert (code, loaded) == (0, [])
    assert f"usage: llava {word}" in text


@pytest.mark.parametrize("name", [name for name in llava.__all__ if name != "__version__"])
def test_a_lazy_name_is_the_object_of_its_home(name):
    value = getattr(llava, name)
    assert value is vars(llava)[name], "kept after the first use"
    assert getattr(value, "__name__", name) == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'LlavaMPT'"):
        llava.LlavaMPT  # noqa: B018


def test_the_package_says_that_it_is_typed(repository: Path):
    assert (repository / "llava" / "py.typed").exists()
    assert runpy.run_path(str(repository / "llava" / "__init__.py"))["__version__"] == llava.__version__
