"""Questions about the two images of the repository, and the generators run in this process as a command would."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from llava.command_line import run
from tests.support.science_qa import write_lines

IMAGES = Path(__file__).resolve().parents[2] / "playground" / "images"
QUESTIONS = ("What is in the picture?", "Is this a drawing or a photograph?", "Describe the picture.")
GREEDY = ("--temperature", "0", "--max-new-tokens", "24")


def ask(identity: int | str, text: str = QUESTIONS[0], image: Any = "sneaker.png") -> dict[str, Any]:
    return {"question_id": identity, "image": image, "text": text}


def six_questions() -> list[dict[str, Any]]:
    """Three about each of two images, in turn, so that questions about one do not stand together."""
    return [ask(10 - number, QUESTIONS[number // 2], ("sneaker.png", "scene.png")[number % 2]) for number in range(6)]


def write_questions(folder: Path, questions: list[dict[str, Any]] | None = None) -> Path:
    return write_lines(folder / "questions.jsonl", six_questions() if questions is None else questions)


def generate(module: ModuleType, *words: object) -> int:
    """Runs a generator on the embedded model unless `words` name another one; returns its exit code."""
    return run(module.add_arguments, module.main, argv=[str(word) for word in words])


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
