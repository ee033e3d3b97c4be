"""A made-up question set about images, with answers, contexts and reviews, in the original's formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.science_qa import write_lines

CATEGORIES = ("conv", "detail", "complex")


def make_question_set(folder: Path, images: int = 3) -> dict[str, Path]:
    """Three questions an image, as in the original's 90; the second model's answers grow longer with the id."""
    folder.mkdir(parents=True, exist_ok=True)
    questions, contexts = [], []
    for number in range(images):
        name = f"{number:012d}.jpg"
        box = {"category": "dog", "bbox": [0.25, 0.5, 0.75, 0.9]}
        contexts.append({"id": name, "image": name, "captions": [f"Dog {number}.", "A dog."], "instances": [box, box]})
        for place, category in enumerate(CATEGORIES):
            identity = 3 * number + place
            questions.append(
                {"question_id": identity, "image": name, "text": f"What is {identity}?", "category": category}
            )
    ids = [question["question_id"] for question in questions]
    reference = [{"question_id": identity, "text": f"It is {identity}.", "category": "x"} for identity in ids]
    ours = [
        {"question_id": identity, "text": "a" * (1 + identity % 7), "answer_id": f"a{identity}"}
        | {"model_id": "LLaVA-13B-v0", "metadata": {}}
        for identity in ids
    ]
    return {
        name: write_lines(folder / f"{name}.jsonl", lines)
        for name, lines in {"questions": questions, "context": contexts, "reference": reference, "ours": ours}.items()
    }


def arguments(files: dict[str, Path], output: Path, **more: Any) -> list[str]:
    """Of eval_gpt_review_visual."""
    words = ["--question", files["questions"], "--context", files["context"]]
    words += ["--answer-list", files["reference"], files["ours"], "--output", output]
    for name, value in more.items():
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [value])
    return [str(word) for word in words]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def change(path: Path, number: int, **changes: Any) -> None:
    """Changes a record of a JSON Lines file."""
    lines = read_lines(path)
    lines[number] |= changes
    write_lines(path, lines)
