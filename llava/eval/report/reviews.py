"""Turns a judge's reviews of pairs of answers into two runs with the scores of each side.

Reviews do not contain the answers. Files of answers that are given with them lend their texts and their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llava.errors import DataError
from llava.eval.data.records import some
from llava.eval.report.run import POINTS, EvaluatedRun
from llava.eval.reviews.reader import Review, Reviews, read_reviews
from llava.eval.scoring.marks import MarkedAnswer
from llava.files.json_files import Line

SIDES = (1, 2)


def holds_reviews(lines: Sequence[Line]) -> bool:
    """Returns whether records are reviews."""
    return bool(lines) and "answer2_id" in lines[0].record


def review_runs(path: Path, name: str | None) -> list[EvaluatedRun]:
    """Returns the two sides of a file of reviews. A question judged in both orders gets the mean of its scores.

    Raises:
        DataError: a record is not a review, or a score is above 10. The message names file, line and question.
    """
    reviews = read_reviews(path)
    by_question: dict[str, list[Review]] = {}
    for review in reviews.reviews:
        if review.scores and max(review.scores) > POINTS:
            raise DataError(
                f"{path}: question {review.question_id}: the scores are {review.scores}, expected up to 10."
            )
        by_question.setdefault(review.question_id, []).append(review)
    return [_side(side, reviews, by_question, name) for side in SIDES]


def lend_answers(runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """Gives the sides of reviews the texts of the answers that they are about, and removes the runs of those answers.

    Raises:
        DataError: an answer that a review is about is missing from the file that has the others.
    """
    lent: dict[int, EvaluatedRun] = {}
    for answers in (run for run in runs if not run.is_marked):
        for side in (run for run in runs if run.side and id(run) not in lent):
            if _is_about(side, answers) and answers not in [lent.get(id(other)) for other in _other_sides(side, runs)]:
                lent[id(side)] = answers
    lenders = {id(run) for run in lent.values()}
    return [_with_texts(run, lent.get(id(run))) if run.side else run for run in runs if id(run) not in lenders]


def _other_sides(side: EvaluatedRun, runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """Returns the other side of the same file, since a file of answers can be one side only."""
    return [run for run in runs if run.side and run.path == side.path and run is not side]


def _side(side: int, reviews: Reviews, by_question: dict[str, list[Review]], name: str | None) -> EvaluatedRun:
    marks = {identity: _mark(identity, of_question, side) for identity, of_question in by_question.items()}
    benchmark = f"reviews by {' and '.join(reviews.judges)}" if reviews.judges else "reviews"
    return EvaluatedRun(
        f"{name}, answer {side}" if name else "",
        reviews.path,
        f"{benchmark}, answer {side}",
        marks,
        {identity: f"{reviews.path}: the review of question {identity}" for identity in marks},
        is_marked=True,
        benchmark=benchmark,
        model=reviews.reviews[0].answer_models[side - 1],
        scale=POINTS,
        answer_ids={identity: of_question[-1].answer_ids[side - 1] for identity, of_question in by_question.items()},
        remarks=_remarks(reviews) if side == SIDES[0] else (),
        side=side,
        reviews=reviews,
    )


def _mark(identity: str, reviews: Sequence[Review], side: int) -> MarkedAnswer:
    scores = [review.scores[side - 1] for review in reviews if review.scores]
    mean = sum(scores) / len(scores) if scores else None
    category = reviews[-1].category
    return MarkedAnswer(
        identity,
        text="",
        score=None if mean is None else mean / POINTS,
        parsed=None if mean is None else f"{mean:g}",
        image=reviews[-1].image,
        categories=(category,) if category else (),
        note="\n\n".join(map(_words, reviews)),
    )


def _words(review: Review) -> str:
    """Returns what the judge wrote, preceded by the order in which it saw the answers if that was swapped."""
    heading = ["The judge saw the second answer first."] if review.order == "swapped" else []
    reason = [f"No scores: {review.reason}."] if review.reason else []
    return "\n".join([*heading, *reason, review.content])


def _remarks(reviews: Reviews) -> tuple[str, ...]:
    unscored = list(dict.fromkeys(review.question_id for review in reviews.reviews if review.scores is None))
    remarks = []
    if unscored:
        remarks.append(f"reviews without scores, which are not counted: {len(unscored):,} ({some(unscored)})")
    if reviews.repeated:
        remarks.append(
            f"reviewed more than once, the last review counts: {len(reviews.repeated):,} ({some(reviews.repeated)})"
        )
    return tuple(remarks)


def _is_about(side: EvaluatedRun, answers: EvaluatedRun) -> bool:
    """Compares the ids of the answers. Reviews name an answer without an id, such as a reference, by its question."""
    return any(
        identity in answers.marks and wanted == answers.answer_ids.get(identity, identity)
        for identity, wanted in side.answer_ids.items()
    )


def _with_texts(side: EvaluatedRun, answers: EvaluatedRun | None) -> EvaluatedRun:
    if answers is None:
        remark = "the texts of these answers are missing; give the file of answers too"
        return replace(side, remarks=(*side.remarks, remark))
    marks = {}
    for identity, mark in side.marks.items():
        found = answers.marks.get(identity)
        if found is None or answers.answer_ids.get(identity, identity) != side.answer_ids[identity]:
            raise DataError(
                f"{side.places[identity]} is about the answer {side.answer_ids[identity]}, which {answers.path} "
                "does not contain, although it contains others. Give the answers that were reviewed."
            )
        marks[identity] = replace(mark, text=found.text, question=found.question, image=mark.image or found.image)
    return replace(
        side,
        name=side.name or answers.name,
        model=side.model or answers.model or answers.path.stem,
        content=f"{side.content}, of {answers.path.name}",
        marks=marks,
    )
