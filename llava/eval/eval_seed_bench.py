"""Scores answers to SEED-Bench, and optionally writes the file that its leaderboard accepts.

An answer is correct if it is the letter and nothing else, as in the published figures. Reports the accuracy of every
type of question, of all questions, and of those about images and about videos. The submission is written only if every
question is answered.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llava.command_line import run
from llava.errors import DataError
from llava.eval.data.records import annotation_texts, locate, normal_id, read_annotations, read_answers
from llava.eval.scoring.answers import BenchmarkAnswers, answers_to, require_all
from llava.eval.scoring.estimates import Estimate, Part, ratio
from llava.eval.scoring.marks import MarkedAnswer
from llava.eval.scoring.scorer import RESULT_FILE, Export, FileFlag, ScoredRun, Scorer, ScorerInput
from llava.files.json_files import read_json, write_jsonl

LETTERS = "ABCD"


@dataclass(frozen=True, slots=True)
class SeedBenchQuestion:
    """One question."""

    id: str
    """The id as text."""
    given_id: Any
    """The id as the benchmark writes it, which a submission repeats."""
    kind: str
    """Type of the question, such as `Scene Understanding`."""
    kind_number: int
    """Number of the type."""
    medium: str
    """What the question is about: image or video."""
    answer: str
    """Letter of the correct answer."""
    text: str | None
    """Text of the question, if the file has it."""
    image: str | None
    """Name of the image or video, if the file has it."""


def read(annotation_file: str, result_file: str) -> list[ScorerInput[SeedBenchQuestion]]:
    """Reads the questions and the answers."""
    questions = read_questions(annotation_file)
    found = read_answers(locate(result_file))
    return [ScorerInput(questions, answers_to([one.id for one in questions], found, source=annotation_file))]


def read_questions(path: str) -> list[SeedBenchQuestion]:
    """Reads the benchmark's questions.

    Raises:
        DataError: the file has another form, or a question lacks a field.
    """
    kinds = _kinds(path)
    questions = []
    for place, record in read_annotations(path, within="questions"):
        identity = normal_id(record.get("question_id"), f"{place}: 'question_id'")
        medium, answer = annotation_texts(record, place, "data_type", "answer")
        number: Any = record.get("question_type_id")
        if number not in kinds:
            raise DataError(f"{place}: 'question_type_id' is {number!r}, which is not in 'question_type'.")
        text, image = (record.get(name) for name in ("question", "data_id"))
        questions.append(
            SeedBenchQuestion(
                identity,
                record["question_id"],
                kinds[number],
                number,
                medium,
                answer,
                text if isinstance(text, str) else None,
                image if isinstance(image, str) else None,
            )
        )
    return questions


def _kinds(path: str) -> dict[Any, str]:
    """Returns the names of the types of questions by their number."""
    content = read_json(locate(path, remedy="Pass the benchmark's annotation file."))
    kinds = content.get("question_type") if isinstance(content, dict) else None
    if not isinstance(kinds, dict):
        raise DataError(f"{path}: has no object 'question_type'. Is it SEED-Bench.json?")
    return {number: name for name, number in kinds.items()}


def mark(question: SeedBenchQuestion, text: str | None) -> MarkedAnswer:
    """Marks the answer to a question."""
    return MarkedAnswer(
        question_id=question.id,
        text=text,
        score=float(text == question.answer),
        parsed=text if text in tuple(LETTERS) else None,
        target=question.answer,
        question=question.text,
        image=question.image,
        categories=(question.kind, question.medium),
    )


def figures(questions: Sequence[SeedBenchQuestion], marks: Sequence[MarkedAnswer]) -> list[Estimate]:
    """Returns the accuracy of each type, of all questions, of images and of videos, in percent."""
    pairs = list(zip(questions, marks, strict=True))
    kinds = dict.fromkeys(one.kind for one in sorted(questions, key=lambda one: one.kind_number))
    estimates = [_accuracy(kind, [marked for one, marked in pairs if one.kind == kind]) for kind in kinds]
    estimates.append(_accuracy("Total accuracy", marks))
    for medium in ("image", "video"):
        estimates.append(_accuracy(f"{medium} accuracy", [marked for one, marked in pairs if one.medium == medium]))
    return [one for one in estimates if one.value is not None]


def _accuracy(name: str, marks: Sequence[MarkedAnswer]) -> Estimate:
    return ratio(name, [Part(one.score or 0.0, group=one.image) for one in marks])


def original_report(scored: ScoredRun[SeedBenchQuestion]) -> str:
    """Returns the figures in the lines that the original prints."""
    return "".join(f"{one.name}: {one.value:.2f}%\n" for one in scored.estimates)


def write_submission(file: str, questions: Sequence[SeedBenchQuestion], answers: BenchmarkAnswers) -> None:
    """Writes the file that the leaderboard accepts.

    Raises:
        DataError: a question has no answer.
    """
    require_all(answers)
    write_jsonl(file, ({"question_id": one.given_id, "prediction": answers.texts[one.id]} for one in questions))
    print(f"{file}: {len(questions)} answers")


SCORER = Scorer(
    "SEED-Bench",
    flags=(FileFlag(("--annotation-file",), "Questions of the benchmark (SEED-Bench.json)."), RESULT_FILE),
    read=read,
    mark=mark,
    figures=figures,
    original_report=original_report,
    export=Export(
        FileFlag(
            ("--result-upload-file",),
            "Output file for the submission (JSON Lines).",
            is_required=False,
        ),
        write_submission,
    ),
    unclear_are="answers that are not a single letter",
)
add_arguments, main = SCORER.add_arguments, SCORER.main

if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
