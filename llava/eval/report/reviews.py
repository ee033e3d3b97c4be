"""A judge's reviews of pairs of answers, as two runs: what each of the two sides was given.

The reviews do not hold the answers. Files of answers that are given beside them lend their texts and their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava.errors import DataError
from llava.eval.marks import MarkedAnswer
from llava.eval.records import normal_id
from llava.eval.report.run import POINTS, Run
from llava.json_files import Line

SIDES = (1, 2)
_NO_SCORE = (-1, -1)
"""What the original writes where it found no scores."""


def holds_reviews(lines: Sequence[Line]) -> bool:
    """Whether records are reviews."""
    return bool(lines) and "answer2_id" in lines[0].record


def read_reviews(lines: Sequence[Line], path: Path, name: str | None) -> tuple[Run, Run]:
    """The two sides of a file of reviews; a pair that was reviewed in both orders has the mean of its scores.

    Raises:
        DataError: a record that is no review; names file, line and id.
    """
    by_question: dict[str, dict[str, _Review]] = {}
    for number, record in lines:
        review = _review(record, f"{path}: line {number}")
        of_orders = by_question.setdefault(review.question_id, {})
        # A review without scores may have been asked for again, further down.
        if review.scores or review.order not in of_orders:
            of_orders[review.order] = review
    benchmark = _benchmark(lines)
    first, second = (_side(side, by_question, path, benchmark=benchmark, name=name) for side in SIDES)
    return first, second


def lend_answers(runs: Sequence[Run]) -> list[Run]:
    """Gives the sides of reviews the texts of those answers that they are about; such files are then no runs any more.

    Raises:
        DataError: an answer that a review is about is not in the file that has the others.
    """
    sides = [run for run in runs if run.scale == POINTS]
    lent: dict[int, Run] = {}
    for answers in (run for run in runs if not run.is_marked):
        side = next((side for side in sides if id(side) not in lent and _is_about(side, answers)), None)
        if side is not None:
            lent[id(side)] = answers
    lenders = {id(run) for run in lent.values()}
    return [_with_texts(run, lent.get(id(run))) for run in runs if id(run) not in lenders]


@dataclass(frozen=True)
class _Review:
    """One record."""

    question_id: str
    place: str
    order: str
    """Which answer the judge saw first: `swapped` or not. The scores are in the order of the answers, not in its."""
    answer_ids: tuple[str, ...]
    models: tuple[str | None, ...]
    categories: tuple[str, ...]
    image: str | None
    content: str | None
    scores: tuple[float, float] | None


def _review(record: dict[str, Any], place: str) -> _Review:
    identity = normal_id(record.get("question_id"), f"{place}: 'question_id'")
    place = f"{place} (question {identity})"
    category = _text(record, "category")
    order = _text(record, "order") or "given"
    said = [_text(record, "content") or _text(record, "text"), _text(record, "unparsable")]
    heading = ["The judge saw the second answer first."] if order == "swapped" else []
    return _Review(
        identity,
        place,
        order,
        tuple(str(record.get(f"answer{side}_id", identity)) for side in SIDES),
        tuple(_text(record, f"answer{side}_model") for side in SIDES),
        (category,) if category else (),
        _text(record, "image"),
        "\n".join(heading + [text for text in said if text]) or None,
        _scores(record.get("tuple", record.get("score")), place),
    )


def _text(record: dict[str, Any], field: str) -> str | None:
    value = record.get(field)
    return value if isinstance(value, str) and value else None


def _scores(value: Any, place: str) -> tuple[float, float] | None:
    """The pair, or None where the judge gave none."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(score) in (int, float) for score in value):
        raise DataError(f"{place}: the scores are {value!r}, expected two numbers in 'tuple' (or 'score').")
    if tuple(value) == _NO_SCORE:
        return None
    if not all(0 <= score <= POINTS for score in value):
        raise DataError(f"{place}: the scores are {value!r}, expected from 0 to {POINTS:g}.")
    return float(value[0]), float(value[1])


def _benchmark(lines: Sequence[Line]) -> str:
    """Reviews of one judge do not compare with those of another."""
    judges = {_text(line.record, "judge_snapshot") or _text(line.record, "judge_model") for line in lines} - {None}
    return f"reviews by {' and '.join(sorted(map(str, judges)))}" if judges else "reviews"


def _side(
    side: int, by_question: dict[str, dict[str, _Review]], path: Path, *, benchmark: str, name: str | None
) -> Run:
    marks, places, answer_ids = {}, {}, {}
    for identity, of_orders in by_question.items():
        reviews = list(of_orders.values())
        scores = [review.scores[side - 1] for review in reviews if review.scores]
        mean = sum(scores) / len(scores) if scores else None
        marks[identity] = MarkedAnswer(
            identity,
            text="",
            score=None if mean is None else mean / POINTS,
            parsed=None if mean is None else f"{mean:g}",
            image=reviews[-1].image,
            categories=reviews[-1].categories,
            note="\n\n".join(review.content for review in reviews if review.content) or None,
        )
        places[identity] = reviews[-1].place
        answer_ids[identity] = reviews[-1].answer_ids[side - 1]
    unparsable = sum(mark.score is None for mark in marks.values())
    model = next(iter(by_question[next(iter(by_question))].values())).models[side - 1]
    unscored = f"pairs that the judge gave no scores, which count in no figure: {unparsable:,}"
    return Run(
        f"{name}, answer {side}" if name else "",
        path,
        f"{benchmark}, answer {side}",
        marks,
        places,
        is_marked=True,
        benchmark=benchmark,
        model=model,
        side=f"answer {side}",
        scale=POINTS,
        answer_ids=answer_ids,
        remarks=(unscored,) if unparsable and side == SIDES[0] else (),
    )


def _is_about(side: Run, answers: Run) -> bool:
    """By the ids of the answers; reviews name an answer without id, such as a reference, by its question."""
    return any(
        identity in answers.marks and wanted == answers.answer_ids.get(identity, identity)
        for identity, wanted in side.answer_ids.items()
    )


def _with_texts(side: Run, answers: Run | None) -> Run:
    if side.scale != POINTS:
        return side
    if answers is None:
        told = "the texts of these answers were not given: name the file of answers too"
        return replace(side, remarks=(*side.remarks, told))
    marks = {}
    for identity, mark in side.marks.items():
        found = answers.marks.get(identity)
        if found is None or answers.answer_ids.get(identity, identity) != side.answer_ids[identity]:
            raise DataError(
                f"{side.places[identity]}: reviews the answer {side.answer_ids[identity]}, which {answers.path} "
                "does not hold, though it holds others. Give the answers that were reviewed."
            )
        marks[identity] = replace(mark, text=found.text, question=found.question, image=mark.image or found.image)
    return replace(
        side,
        name=side.name or answers.name,
        model=side.model or answers.model or answers.path.stem,
        content=f"{side.content}, of {answers.path.name}",
        marks=marks,
    )
