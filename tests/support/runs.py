"""Runs for the evaluation report: files as evaluators, scorers and judges write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llava.eval.scoring.marks import MarkedAnswer, MarkSheet, marks_as_json

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"


def mark(number: int, score: float | None, text: str | None = "Yes.", **more: Any) -> MarkedAnswer:
    """An answer to question `number`; two questions in a row are about one image, every third is a hard one."""
    fields: dict[str, Any] = {
        "parsed": None if text is None or score is None else text.lower().strip("."),
        "target": "yes",
        "question": f"Is there a number {number}?",
        "image": f"{(number + 1) // 2}.png",
        "categories": ("hard",) if number % 3 == 0 else ("easy",),
    }
    return MarkedAnswer(str(number), text, score, **(fields | more))


def write_marks(
    path: Path, marks: list[MarkedAnswer], model: str = "tiny", benchmark: str = "POPE", **more: Any
) -> Path:
    path.write_text(json.dumps(marks_as_json(MarkSheet(benchmark, marks, model)) | more), encoding="utf-8")
    return path


def review(number: int, scores: list[float], **more: Any) -> dict[str, Any]:
    """A record as eval_gpt_review_visual writes it."""
    return {
        "id": number,
        "question_id": number,
        "answer1_id": number,
        "answer2_id": f"b{number}",
        "category": "conv" if number % 2 else "detail",
        "content": f"{scores[0]} {scores[1]}\nBoth are about number {number}.",
        "tuple": scores,
    } | more
