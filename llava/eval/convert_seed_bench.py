"""Marks answers to SEED-Bench and makes the file that its leaderboard takes.

An answer is right if it is the letter and nothing else, as in the published figures. Accuracy of every kind of
question, of all, of those about images and of those about videos. The file to submit is written only if every
question is answered.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llava.command_line import run
from llava.errors import DataError
from llava.eval.data.records import locate, normal_id, read_answers
from llava.eval.scoring.answers import Result, add_output, answers_to, complete, records_of, tell, text_of
from llava.eval.scoring.estimates import Estimate, Part, ratio
from llava.eval.scoring.marks import MarkedAnswer
from llava.files.json_files import read_json, write_jsonl

LETTERS = "ABCD"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotation-file", required=True, metavar="FILE", help="SEED-Bench.json")
    parser.add_argument("--result-file", required=True, metavar="FILE", help="answers, JSON Lines")
    parser.add_argument(
        "--result-upload-file", metavar="FILE", help="where to write the submission, JSON Lines; its folder is made"
    )
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    questions = read_questions(args.annotation_file)
    answers = answers_to([one.id for one in questions], read_answers(locate(args.result_file)), of=args.annotation_file)
    marks = [mark(one, answers.texts.get(one.id)) for one in questions]
    estimates = figures(questions, marks)
    for one in estimates:
        print(f"{one.name}: {one.value:.2f}%")
    print()
    result = Result("SEED-Bench", answers, marks, estimates)
    tell(result, args.output, understood="answers that are not a letter alone")
    if args.result_upload_file:
        complete(answers, use="A submission")
        write_jsonl(
            args.result_upload_file,
            ({"question_id": one.given_id, "prediction": answers.texts[one.id]} for one in questions),
        )
        print(f"{args.result_upload_file}: {len(questions)} answers")
    return 0


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    given_id: Any
    """As the benchmark writes the id, which the submission repeats."""
    kind: str
    kind_number: int
    medium: str
    """image or video"""
    answer: str
    text: str | None
    image: str | None


def read_questions(path: str) -> list[Question]:
    """The benchmark's questions.

    Raises:
        DataError: another kind of file, or a question without a field.
    """
    kinds = _kinds(path)
    questions = []
    for place, record in records_of(path, within="questions"):
        identity = normal_id(record.get("question_id"), f"{place}: 'question_id'")
        medium, answer = (text_of(record, name, place) for name in ("data_type", "answer"))
        number: Any = record.get("question_type_id")
        if number not in kinds:
            raise DataError(f"{place}: 'question_type_id' is {number!r}, which 'question_type' does not name.")
        text, image = (record.get(name) for name in ("question", "data_id"))
        questions.append(
            Question(
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
    """Names of the kinds of questions by their number."""
    content = read_json(locate(path, remedy="Give the benchmark's annotations."))
    kinds = content.get("question_type") if isinstance(content, dict) else None
    if not isinstance(kinds, dict):
        raise DataError(f"{path}: has no object 'question_type'. Is it SEED-Bench.json?")
    return {number: name for name, number in kinds.items()}


def mark(question: Question, text: str | None) -> MarkedAnswer:
    """What an answer to a question is worth."""
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


def figures(questions: Sequence[Question], marks: Sequence[MarkedAnswer]) -> list[Estimate]:
    """Accuracy of each kind, of all, of images and of videos, in percent."""
    pairs = list(zip(questions, marks, strict=True))

    def of(name: str, chosen: list[tuple[Question, MarkedAnswer]]) -> Estimate:
        return ratio(name, [Part(marked.score or 0.0, group=marked.image) for _, marked in chosen])

    kinds = dict.fromkeys(one.kind for one in sorted(questions, key=lambda one: one.kind_number))
    estimates = [of(kind, [pair for pair in pairs if pair[0].kind == kind]) for kind in kinds]
    estimates.append(of("Total accuracy", pairs))
    for medium in ("image", "video"):
        estimates.append(of(f"{medium} accuracy", [pair for pair in pairs if pair[0].medium == medium]))
    return [one for one in estimates if one.value is not None]


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
