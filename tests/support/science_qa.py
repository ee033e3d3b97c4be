"""A small ScienceQA, made up: the authors' two files and an image for each problem that has one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from llava.eval.science_qa.dataset import SUBJECTS


def problem(number: int, **changes: Any) -> dict[str, Any]:
    """Problem `number`: its answer is the choice `number % 3`; every second has an image, every third a hint."""
    return {
        "question": f"Which of these is {number}?",
        "choices": [f"the number {number}", f"half of {2 * number + 1}", f"twice {number}"],
        "answer": number % 3,
        "hint": "Count." if number % 3 == 0 else "",
        "image": "image.png" if number % 2 == 0 else None,
        "task": "closed choice",
        "grade": f"grade{number % 12 + 1}",
        "subject": SUBJECTS[number % 3],
        "lecture": "Numbers are counted.",
        "solution": f"It is {number}.",
    } | changes


def make_science_qa(folder: Path, count: int = 12, *, changes: Mapping[int, dict[str, Any]] | None = None) -> Path:
    """Writes problems 1 to `count`, all in split `test`, the first four in `minitest` too; returns the folder."""
    problems = {str(number): problem(number, **(changes or {}).get(number, {})) for number in range(1, count + 1)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "problems.json").write_text(json.dumps(problems), encoding="utf-8")
    ids = list(problems)
    (folder / "pid_splits.json").write_text(json.dumps({"test": ids, "minitest": ids[:4], "val": ["13"]}))
    for identity in ids:
        if problems[identity]["image"]:
            image = folder / "images" / "test" / identity / problems[identity]["image"]
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (int(identity) * 20 % 256, 0, 0)).save(image)
    return folder


def answer(number: int | str, text: str, **more: Any) -> dict[str, Any]:
    """A record as model_vqa_science writes it."""
    return {
        "question_id": number,
        "prompt": "Which?",
        "text": text,
        "answer_id": "a",
        "model_id": "m",
        "metadata": {},
    } | more


def right(number: int) -> str:
    """A right answer to problem `number`, in the words of a model of v0."""
    return f"SOLUTION: It is {number}.\n The answer is {'ABC'[number % 3]}."


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
