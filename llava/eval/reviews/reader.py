"""Reads files of reviews: ours, and those of every release of the original.

The original writes the two scores as `tuple`, FastChat as `score`; the judge's words are `content` or `text`. Where no
scores could be read, the original writes negative ones, and ours says why in `unparsable`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.errors import DataError
from llava.eval.data.records import normal_id
from llava.files.json_files import Line, json_type, read_jsonl

PREFIX = "gpt4_text_"
"""Of file names, in the original's folders."""


@dataclass(frozen=True, slots=True)
class Review:
    """What a judge said about two answers to a question."""

    question_id: str
    category: str | None
    order: str
    """`forward`, or `swapped`: the judge saw the second file's answer first."""
    scores: tuple[float, float] | None
    """Of the first and of the second file's answer, whatever the order; None where none could be read."""
    reason: str | None
    """Why there are no scores."""
    content: str
    """The judge's words."""
    image: str | None
    judge: str | None
    """The snapshot if it is known, else the name that was asked for."""
    answer_models: tuple[str | None, str | None]
    answer_ids: tuple[str, str]
    """As the files of answers have them; the id of the question where an answer has none of its own."""


@dataclass(frozen=True, slots=True)
class Reviews:
    """One file."""

    path: Path
    name: str
    """What figures of it are called: the file's name without the original's prefix and the ending."""
    reviews: tuple[Review, ...]
    """One for each question, order and judge: the last in the file."""
    repeated: tuple[str, ...]
    """Ids of questions whose earlier reviews do not count."""

    @property
    def judges(self) -> list[str]:
        return sorted({review.judge for review in self.reviews if review.judge is not None})


def read_reviews(path: Path) -> Reviews:
    """Reads a file of reviews, JSON Lines whatever its ending says.

    Raises:
        DataError: it cannot be read, or a line is no review; names file, line and question.
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
        raise DataError(f"{path}: holds no reviews.")
    return Reviews(path, config_name(path), tuple(by_key.values()), tuple(repeated))


def config_name(path: Path) -> str:
    """What the original calls the figures of a file."""
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
    """Whether a file is of a judge: by what its records say; else by its name, as in the original's folders."""
    if reviews.judges:
        return any(version in judge for judge in reviews.judges)
    return version == ("0613" if "0613" in reviews.name else "0314")


def ids_of(reviews: Collection[Review]) -> list[str]:
    return list(dict.fromkeys(review.question_id for review in reviews))
