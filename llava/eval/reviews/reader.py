"""Reads files of reviews: ours, and those of every release of the original.

The original writes the two scores as `tuple`, FastChat as `score`. The judge's words are `content` or `text`. If no
scores could be read, the original writes negative ones, and our files say why in `unparsable`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.errors import DataError
from llava.eval.data.records import normal_id
from llava.files.json_files import Line, json_type, read_jsonl

PREFIX = "gpt4_text_"
"""Beginning of file names in the original's folders."""


@dataclass(frozen=True, slots=True)
class Review:
    """A judge's review of two answers to a question."""

    question_id: str
    category: str | None
    order: str
    """`forward`, or `swapped`: the judge saw the second file's answer first."""
    scores: tuple[float, float] | None
    """Scores of the first and of the second file's answer, in either order; None if there are none."""
    reason: str | None
    """Why there are no scores; None if there are."""
    content: str
    """The judge's words."""
    image: str | None
    judge: str | None
    """The judge's snapshot if it is known, else the name that was requested."""
    answer_models: tuple[str | None, str | None]
    answer_ids: tuple[str, str]
    """Ids of the two answers. An answer without an id has that of its question."""


@dataclass(frozen=True, slots=True)
class Reviews:
    """The reviews of one file."""

    path: Path
    name: str
    """Name of the file's figures: the file's name without the original's prefix and the ending."""
    reviews: tuple[Review, ...]
    """One review per question, order and judge: the last one in the file."""
    repeated: tuple[str, ...]
    """Ids of questions with earlier reviews, which do not count."""

    @property
    def judges(self) -> list[str]:
        return sorted({review.judge for review in self.reviews if review.judge is not None})


def read_reviews(path: Path) -> Reviews:
    """Reads a file of reviews, which is JSON Lines whatever the ending of its name.

    Raises:
        DataError: the file cannot be read, or a line is not a review. The message names file, line and question.
    """
    by_key: dict[tuple[str, str, str | None], Review] = {}
    repeated: dict[str, None] = {}
    for line in read_jsonl(path):
        review = _review(line, path)
        key = (review.question_id, review.order, review.judge)
        if key in by_key:
            repeated[review.question_id] = None
        by_key[key] = review
    if not by_key:
        raise DataError(f"{path}: contains no reviews.")
    return Reviews(path, config_name(path), tuple(by_key.values()), tuple(repeated))


def config_name(path: Path) -> str:
    """Returns what the original calls the figures of a file."""
    name = path.name.replace(PREFIX, "")
    for ending in (".jsonl", ".json"):
        name = name.removesuffix(ending)
    return name


def _review(line: Line, path: Path) -> Review:
    record = line.record
    place = f"{path}: line {line.number}"
    if "question_id" not in record:
        raise DataError(f"{place} has no 'question_id'. Is this a file of reviews?")
    identity = normal_id(record["question_id"], f"{place}: 'question_id'")
    scores = _scores(record, f"{place} (question {identity})")
    reason = _text(record, "unparsable") or (None if scores else "the scores are negative")
    return Review(
        question_id=identity,
        category=_text(record, "category"),
        order=_text(record, "order") or "forward",
        scores=None if reason else scores,
        reason=reason,
        content=_text(record, "content") or _text(record, "text") or "",
        image=_text(record, "image"),
        judge=_text(record, "judge_snapshot") or _text(record, "judge_model"),
        answer_models=(_text(record, "answer1_model"), _text(record, "answer2_model")),
        answer_ids=(str(record.get("answer1_id", identity)), str(record.get("answer2_id", identity))),
    )


def _scores(record: Mapping[str, Any], place: str) -> tuple[float, float] | None:
    name = "tuple" if "tuple" in record else "score"
    if name not in record:
        raise DataError(f"{place} has neither 'tuple' nor 'score'. Is this a file of reviews?")
    value = record[name]
    if not isinstance(value, list) or len(value) != 2 or not all(_is_number(score) for score in value):
        shown = value if isinstance(value, list) else f"a JSON {json_type(value)}"
        raise DataError(f"{place}: {name!r} is {shown}, expected two numbers.")
    first, second = map(float, value)
    return None if first < 0 or second < 0 else (first, second)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    return value if isinstance(value, str) and value else None


def is_judged_by(reviews: Reviews, version: str) -> bool:
    """Returns whether a judge wrote a file, as its records say, or else its name, as in the original's folders."""
    if reviews.judges:
        return any(version in judge for judge in reviews.judges)
    return version == ("0613" if "0613" in reviews.name else "0314")
