"""Summarises the grades of MM-Vet's judge: by capability, by combination of capabilities, and in total.

The judge is a language model that the benchmark's own notebook or server calls. It gives each answer a score from 0 to
1, once or in several runs. This command reads its grades and the benchmark's file; it needs no model.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava.command_line import run
from llava.errors import DataError
from llava.eval.data.records import annotation_texts, locate
from llava.eval.scoring.answers import BenchmarkAnswers
from llava.eval.scoring.estimates import Estimate, Part, ratio
from llava.eval.scoring.marks import MarkedAnswer
from llava.eval.scoring.scorer import FileFlag, Scorer, ScorerInput
from llava.files.json_files import read_json

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
"""Recognition, reading text, knowledge, language generation, spatial awareness and arithmetic."""


@dataclass(frozen=True, slots=True)
class MmVetQuestion:
    """One question and the judge's score of the answer to it."""

    id: str
    """The id, such as `v1_0`."""
    text: str
    """Text of the question."""
    answer: str
    """The reference answer."""
    image: str
    """Name of the image."""
    capabilities: tuple[str, ...]
    """The capabilities that the question tests."""
    score: float | None
    """Mean of the judge's scores, from 0 to 1; None if the answer was not graded."""

    @property
    def combination(self) -> str:
        """Its capabilities joined in the benchmark's order, such as `rec_ocr`."""
        return "_".join(sorted(self.capabilities, key=_order))


def _order(capability: str) -> tuple[int, str]:
    return (CAPABILITIES.index(capability) if capability in CAPABILITIES else len(CAPABILITIES), capability)


def read(annotation_file: str, grade_file: str, answers_file: str | None) -> list[ScorerInput[MmVetQuestion]]:
    """Reads the questions with their grades, and the graded answers if they are given.

    Raises:
        DataError: a file has another form, or no grade belongs to a question.
    """
    grades = read_grades(grade_file)
    questions = read_questions(annotation_file, {one: sum(scores) / len(scores) for one, scores in grades.items()})
    known = {one.id for one in questions}
    unknown = [identity for identity in grades if identity not in known]
    if len(unknown) == len(grades):
        raise DataError(f"{grade_file}: none of the {len(grades)} grades matches a question in {annotation_file}.")
    answers = _object(answers_file, "answers") if answers_file else {}
    texts = {one.id: answer for one in questions if isinstance(answer := answers.get(one.id), str)}
    ungiven = {one.id: "" for one in questions if one.score is not None and one.id not in texts}
    missing = [one.id for one in questions if one.score is None]
    found = BenchmarkAnswers(locate(grade_file), texts | ungiven, missing, [], unknown)
    return [ScorerInput(questions, found, extra={"runs_of_the_judge": max(map(len, grades.values()))})]


def read_questions(path: str, scores: Mapping[str, float]) -> list[MmVetQuestion]:
    """Reads the benchmark's questions.

    Args:
        path: the benchmark's file.
        scores: the judge's mean scores by id.

    Raises:
        DataError: the file has another form, or a question lacks a field.
    """
    questions = []
    for identity, record in _object(path, "questions").items():
        place = f"{path}: {identity}"
        if not isinstance(record, Mapping):
            raise DataError(f"{place}: expected a JSON object.")
        capabilities = record.get("capability")
        if not isinstance(capabilities, list) or not capabilities:
            raise DataError(f"{place}: 'capability' must be a list that is not empty.")
        text, answer, image = annotation_texts(record, place, "question", "answer", "imagename")
        questions.append(
            MmVetQuestion(identity, text, answer, image, tuple(map(str, capabilities)), scores.get(identity))
        )
    return questions


def read_grades(path: str) -> dict[str, list[float]]:
    """Returns the judge's scores by question, one for each run.

    Raises:
        DataError: the file has another form, or a score is missing or not a number from 0 to 1.
    """
    grades = {}
    for identity, record in _object(path, "grades").items():
        scores = record.get("score") if isinstance(record, Mapping) else record
        scores = scores if isinstance(scores, list) else [scores]
        if not scores or not all(_is_score(score) for score in scores):
            raise DataError(f"{path}: {identity}: the score is {scores!r}, expected numbers from 0 to 1, one per run.")
        grades[identity] = [float(score) for score in scores]
    return grades


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _object(path: str, what: str) -> dict[str, Any]:
    content = read_json(locate(path, remedy=f"Pass the benchmark's {what}."))
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: expected a JSON object of {what} by id.")
    return content


def mark(question: MmVetQuestion, text: str | None) -> MarkedAnswer:
    """Marks an answer with the mean of the judge's scores; an ungraded answer has no mark."""
    return MarkedAnswer(
        question_id=question.id,
        text=text,
        score=question.score,
        parsed=None if question.score is None else f"{question.score:g}",
        target=question.answer,
        question=question.text,
        image=question.image,
        categories=question.capabilities,
    )


def figures(questions: Sequence[MmVetQuestion], marks: Sequence[MarkedAnswer]) -> list[Estimate]:
    """Returns mean scores in percent: of each capability, in total, and of each combination by frequency."""
    graded = [one for one in questions if one.score is not None]
    used = sorted({capability for one in graded for capability in one.capabilities}, key=_order)
    estimates = [_mean(name, [one for one in graded if name in one.capabilities]) for name in used]
    estimates.append(_mean("total", graded))
    combinations = sorted({one.combination for one in graded if len(one.capabilities) > 1})
    parts = {name: [one for one in graded if one.combination == name] for name in combinations}
    return estimates + [_mean(name, parts[name]) for name in sorted(parts, key=lambda name: (-len(parts[name]), name))]


def _mean(name: str, questions: Sequence[MmVetQuestion]) -> Estimate:
    return ratio(name, [Part(one.score or 0.0, group=one.image) for one in questions])


SCORER = Scorer(
    "MM-Vet",
    flags=(
        FileFlag(("--annotation-file",), "Questions of the benchmark (mm-vet.json)."),
        FileFlag(
            ("--grade-file",),
            "Grades of the judge: a JSON object of objects with `score`, a list with one number per run.",
        ),
        FileFlag(
            ("--answers-file",),
            "Graded answers, which the marks in --output then include (JSON object by id).",
            is_required=False,
        ),
    ),
    read=read,
    mark=mark,
    figures=figures,
    missing_become="left out of the figures",
)
add_arguments, main = SCORER.add_arguments, SCORER.main

if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
