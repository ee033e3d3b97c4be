"""Reads and writes marks: what each answer of a run is worth, in the format that scorers write and reports read.

A scorer's JSON output is an object with at least these fields:

    {
      "benchmark": "POPE",
      "model": "llava-7b-v0",
      "figures": {"accuracy": 85.1, "F1": 84.0},
      "marks": [
        {"question_id": "17", "score": 1, "text": "Yes, there is.", "parsed": "yes", "target": "yes",
         "question": "Is there a dog in the image?", "image": "COCO_val2014_000000000042.jpg",
         "categories": ["adversarial"], "note": null}
      ]
    }

A mark must have `question_id`, `score` and `text`; `MarkedAnswer` documents all fields. Scorers write the object of
`marks_as_json`, `read_marks` reads it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from llava.errors import DataError
from llava.eval.data.records import normal_id
from llava.files.json_files import json_type, read_json

MarkOutcome = Literal["right", "partly right", "wrong", "unparsable", "missing", "not marked"]


@dataclass(frozen=True, slots=True)
class MarkedAnswer:
    """One question, the answer to it and the mark of the answer."""

    question_id: str
    """Unique in its file. If a benchmark asks several questions under one id, it includes what tells them apart."""
    text: str | None
    """The answer as the model wrote it; None if it is missing."""
    score: float | None
    """From 0 (wrong) to 1 (right); None if the answer is not marked and counts in no figure."""
    parsed: str | None = None
    """How the scorer interpreted the answer: a letter, `yes`, normalised words; None if it could not interpret it."""
    target: str | None = None
    """The correct answer, as a reader should see it."""
    question: str | None = None
    """Text of the question."""
    image: str | None = None
    """The image, relative to the benchmark's image folder; questions about one image are resampled together."""
    categories: tuple[str, ...] = ()
    """Categories that the question belongs to; the scorer reports a figure for each."""
    note: str | None = None
    """An explanation of the mark, such as a judge's comment."""

    @property
    def outcome(self) -> MarkOutcome:
        """The mark in words. An answer without an interpretation is `unparsable` even if it counts as correct."""
        if self.text is None:
            return "missing"
        if self.parsed is None:
            return "unparsable"
        if self.score is None:
            return "not marked"
        if self.score >= 1:
            return "right"
        return "partly right" if self.score > 0 else "wrong"


@dataclass(frozen=True)
class MarkSheet:
    """All marks of one run of one benchmark."""

    benchmark: str
    """Name of the benchmark."""
    marks: list[MarkedAnswer]
    """One mark for each question."""
    model: str | None = None
    """Name of the model, if it is known."""
    figures: dict[str, float] = field(default_factory=dict)
    """The benchmark's figures by name, as its scorer computes and rounds them."""


def marks_as_json(sheet: MarkSheet) -> dict[str, Any]:
    """Returns the object that `read_marks` reads; empty fields are left out."""
    head: dict[str, Any] = {"benchmark": sheet.benchmark}
    if sheet.model is not None:
        head["model"] = sheet.model
    if sheet.figures:
        head["figures"] = dict(sheet.figures)
    return {**head, "marks": [_as_json(mark) for mark in sheet.marks]}


def holds_marks(content: Any) -> bool:
    """Returns whether a JSON value is meant to be a mark sheet."""
    return isinstance(content, dict) and "marks" in content


def read_marks(path: str | Path) -> MarkSheet:
    """Reads the output file of a scorer.

    Raises:
        DataError: the file is not a mark sheet or has no marks, a field is missing, of the wrong type or out of range,
            or an id appears twice; names file, mark and id.
    """
    return parse_marks(read_json(path), path)


def parse_marks(content: Any, path: str | Path) -> MarkSheet:
    """Reads marks as `read_marks` does, from the JSON value in the file."""
    if not holds_marks(content) or not isinstance(content["marks"], list):
        raise DataError(f"{path}: has no list 'marks'. Pass the file that a scorer wrote with --output.")
    if not content["marks"]:
        raise DataError(f"{path}: 'marks' is empty.")
    marks: dict[str, MarkedAnswer] = {}
    for number, record in enumerate(content["marks"], start=1):
        mark = _parsed(record, f"{path}: mark {number}")
        if mark.question_id in marks:
            raise DataError(f"{path}: mark {number}: question {mark.question_id} is marked twice.")
        marks[mark.question_id] = mark
    benchmark, model = (_optional(content, name, str(path)) for name in ("benchmark", "model"))
    return MarkSheet(benchmark or "benchmark", list(marks.values()), model, _figures(content, path))


def _as_json(mark: MarkedAnswer) -> dict[str, Any]:
    required = {"question_id": mark.question_id, "score": mark.score, "text": mark.text}
    others = {one.name: getattr(mark, one.name) for one in fields(mark) if one.name not in required}
    given = {name: value for name, value in others.items() if value not in (None, ())}
    return required | {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def _parsed(record: Any, place: str) -> MarkedAnswer:
    if not isinstance(record, dict):
        raise DataError(f"{place}: is a JSON {json_type(record)}, expected an object.")
    identity = normal_id(record.get("question_id"), f"{place}: 'question_id'")
    place = f"{place} (question {identity})"
    for name in ("score", "text"):
        if name not in record:
            raise DataError(f"{place}: {name!r} is missing; it may be null.")
    return MarkedAnswer(
        identity,
        _optional(record, "text", place),
        _score(record["score"], place),
        _optional(record, "parsed", place),
        _optional(record, "target", place),
        _optional(record, "question", place),
        _optional(record, "image", place),
        _categories(record.get("categories"), place),
        _optional(record, "note", place),
    )


def _score(value: Any, place: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise DataError(f"{place}: 'score' is {value!r}, expected a number from 0 to 1, or null.")
    return float(value)


def _optional(record: dict[str, Any], name: str, place: str) -> str | None:
    value = record.get(name)
    if value is None or isinstance(value, str):
        return value
    raise DataError(f"{place}: {name!r} is a JSON {json_type(value)}, expected a string or null.")


def _categories(value: Any, place: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise DataError(f"{place}: 'categories' must be a list of strings, found {value!r}.")
    return tuple(dict.fromkeys(value))


def _figures(content: dict[str, Any], path: str | Path) -> dict[str, float]:
    figures = content.get("figures", {})
    if not isinstance(figures, dict):
        raise DataError(f"{path}: 'figures' is a JSON {json_type(figures)}, expected an object.")
    for name, value in figures.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise DataError(f"{path}: figure {name!r} is {value!r}, expected a number.")
    return {name: float(value) for name, value in figures.items()}
