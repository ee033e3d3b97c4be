"""`import llava`, every `--help` and every command that does not compute stay free of libraries that load slowly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llava import pocket
from llava.commands.catalogue import ALIASES, COMMANDS, entries
from tests.conftest import REPOSITORY
from tests.support.probe import Probed, Prober

LIBRARIES_OF_SERVERS = {"fastapi", "uvicorn", "httpx", "pydantic"}
"""Half a second of CPU time; loaded by what serves or asks a server, and by no `--help`."""
HEAVY = {"torch", "transformers", "gradio", "accelerate", "peft", "wandb", "numpy", "pandas", "matplotlib", "openai"}

MODULES = sorted(
    {entry.program for entry in entries()} | {"llava", "llava.eval.tools", "llava.model.tools", "llava.train.tools"}
)
WORDS = [
    *((name,) for group in COMMANDS.values() for name in group),
    *((alias,) for alias in ALIASES),
    *(entry.words for entry in entries() if len(entry.words) > 1),
]
FILES = [
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
    *(
        path.relative_to(REPOSITORY).as_posix()
        for pattern in ("convert_*", "extract_*", "merge_*")
        for path in sorted((REPOSITORY / "scripts").glob(pattern))
    ),
]


@pytest.fixture(scope="module")
def python() -> Iterator[Prober]:
    with Prober(REPOSITORY) as prober:
        yield prober


def loads_nothing_heavy(probed: Probed) -> bool:
    assert sorted((HEAVY | LIBRARIES_OF_SERVERS) & probed.modules) == [], probed.text
    return True


def test_this_test_can_fail(python):
    with pytest.raises(AssertionError, match="numpy"):
        loads_nothing_heavy(python.imported("numpy"))
    assert "Traceback" in str(python.imported("llava.no_such_module").code)


@pytest.mark.parametrize(
    "module", ["llava", "llava.conversation", "llava.constants", "llava.errors", "llava.doctor", "llava.mm_utils"]
)
def test_modules_of_plain_data_load_nothing_heavy(module, python):
    probed = python.imported(module)
    assert probed.code is None
    assert loads_nothing_heavy(probed)
    assert "PIL" not in probed.modules


@pytest.mark.parametrize("module", MODULES)
def test_help_of_a_module_loads_nothing_heavy(module, python):
    probed = python.module(module, "--help")
    assert probed.code == 0, probed.text
    assert loads_nothing_heavy(probed)
    assert "usage:" in probed.text


@pytest.mark.parametrize("file", FILES)
def test_help_of_a_file_loads_nothing_heavy(file, python):
    probed = python.file(file, "--help")
    assert probed.code == 0, probed.text
    assert loads_nothing_heavy(probed)
    assert "usage:" in probed.text


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_help_through_llava_loads_nothing_heavy(words, python):
    probed = python.module("llava", *words, "--help")
    assert probed.code == 0, probed.text
    assert loads_nothing_heavy(probed)
    assert f"usage: llava {' '.join(words)}" in probed.text


@pytest.mark.parametrize(
    ("how", "target", "words"),
    [
        ("module", "llava.eval.eval_science_qa", ()),
        ("file", "llava/eval/eval_science_qa.py", ()),
        ("module", "llava", ("eval", "science-qa")),
    ],
    ids=["module", "file", "llava"],
)
def test_marking_answers_loads_nothing_heavy(how, target, words, python, data: Path):
    golden = data / "golden" / "science_qa"
    flags = ("--base-dir", str(golden), "--result-file", str(golden / "sqa_pred.jsonl"))
    probed = getattr(python, how)(target, *words, *flags)
    assert probed.code == 0, probed.text
    assert loads_nothing_heavy(probed)
    assert probed.text.startswith("Total: 12, Correct: 8")


@pytest.mark.parametrize(
    "words",
    [
        ("doctor",),
        ("doctor", "--json"),
        ("completion", "bash"),
        ("eval", "get-data", "--list"),
        ("weights", "info", str(pocket.find())),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_commands_that_compute_nothing_load_nothing_heavy(words, python):
    probed = python.module("llava", *words)
    assert probed.code == 0, probed.text
    assert loads_nothing_heavy(probed)
