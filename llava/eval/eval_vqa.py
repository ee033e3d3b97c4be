"""Marks answers to VQA (versions 1 and 2) and to VizWiz: how far ten people agree with each, in percent.

VQA: annotations of the official form, answers as JSON Lines or as a submission (a JSON list of question_id and answer).
VizWiz: annotations are a JSON list; answers of the generator are found by image, so that they need the file of
questions they were made from (--question-file), unless they are a submission (image and answer).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.command_line import run
from llava.errors import DataError, InvalidRequest
from llava.eval.data.records import Joined, joined, locate, read_answers
from llava.eval.scoring.answers import (
    Answers,
    Result,
    add_output,
    answers_to,
    read_predictions,
    records_of,
    tell,
    text_of,
)
from llava.eval.scoring.estimates import Estimate, Part, ratio
from llava.eval.scoring.marks import MarkedAnswer
from llava.eval.scoring.short_answers import NUM_PEOPLE, mark_by_people, vqa_accuracy, vqa_form
from llava.files.json_files import json_type, read_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--annotation-file",
        required=True,
        metavar="FILE",
        help="such as v2_mscoco_val2014_annotations.json, or VizWiz's val.json",
    )
    parser.add_argument("--result-file", required=True, metavar="FILE", help="answers, JSON Lines, or a submission")
    parser.add_argument(
        "--question-file", metavar="FILE", help="VizWiz: questions of the generator, which name their images"
    )
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    questions, is_vizwiz = read_annotations(args.annotation_file)
    found = _by_image(args) if is_vizwiz else read_predictions(args.result_file, key="question_id", field="answer")
    answers = answers_to([one.id for one in questions], found, of=args.annotation_file)
    marks = [mark(one, answers) for one in questions]
    tell(Result("VizWiz" if is_vizwiz else "VQA", answers, marks, figures(marks)), args.output)
    return 0


@dataclass(frozen=True, slots=True)
class Question:
    """One question and what ten people answered."""

    id: str
    people: tuple[str, ...]
    answer_type: str
    """Such as yes/no, number, other, unanswerable; empty where the file does not say."""
    question_type: str
    """Its first words, such as `how many`; empty where the file does not say."""
    text: str | None
    image: str | None


def read_annotations(path: str) -> tuple[list[Question], bool]:
    """The questions, and whether they are VizWiz's.

    Raises:
        DataError: neither form, or a question without a field or without its ten answers.
    """
    content = read_json(locate(path, remedy="Give the benchmark's annotations."))
    is_vizwiz = isinstance(content, list)
    records = records_of(path) if is_vizwiz else records_of(path, within="annotations")
    return [_question(record, place, "image" if is_vizwiz else "question_id") for place, record in records], is_vizwiz


def _question(record: dict[str, Any], place: str, key: str) -> Question:
    identity = text_of(record, key, place)
    people = record.get("answers")
    if not isinstance(people, list) or len(people) != NUM_PEOPLE:
        found = f"{len(people)} of them" if isinstance(people, list) else f"a JSON {json_type(people)}"
        raise DataError(
            f"{place} ({identity}): 'answers' must be a list of {NUM_PEOPLE}, found {found}. "
            "A test split has none: convert the answers and submit them."
        )
    texts = tuple(text_of(one, "answer", f"{place} ({identity}): answer") for one in people if isinstance(one, dict))
    if len(texts) != NUM_PEOPLE:
        raise DataError(f"{place} ({identity}): every one of 'answers' must be an object with 'answer'.")
    question, image = record.get("question"), record.get("image", record.get("image_id"))
    return Question(
        identity,
        texts,
        str(record.get("answer_type", "")),
        str(record.get("question_type", "")),
        question if isinstance(question, str) else None,
        None if image is None else str(image),
    )


def _by_image(args: argparse.Namespace) -> Joined:
    """Answers to VizWiz's questions, of which there is one an image."""
    found = read_predictions(args.result_file, key="image", field="answer")
    if not all("question_id" in line.record for line in found.lines.values()):
        return found
    if args.question_file is None:
        raise InvalidRequest(
            "answers of the generator need --question-file: the questions that they were made from name the images."
        )
    questions = read_answers(locate(args.question_file))
    lines = []
    for identity, line in found.lines.items():
        asked = questions.lines.get(identity)
        image = identity if asked is None else text_of(asked.record, "image", questions.place(identity))
        lines.append(line._replace(record=line.record | {"image": Path(image).name}))
    again = joined(lines, found.path, key="image")
    return Joined(again.path, again.lines, found.duplicates + again.duplicates, found.unit)


def mark(question: Question, answers: Answers) -> MarkedAnswer:
    """What the answer to a question is worth."""
    return mark_by_people(
        question.id,
        answers.texts.get(question.id),
        question.people,
        accuracy=vqa_accuracy,
        form=vqa_form,
        question=question.text,
        image=question.image,
        categories=tuple(
            f"{kind}: {value}"
            for kind, value in (("answer", question.answer_type), ("question", question.question_type))
            if value
        ),
    )


def figures(marks: Sequence[MarkedAnswer]) -> list[Estimate]:
    """Accuracy of all questions, and of each type of answer and of question, in percent."""
    of_category: dict[str, list[Part]] = {}
    parts = [Part(one.score or 0.0, group=one.image) for one in marks]
    for one, part in zip(marks, parts, strict=True):
        for category in one.categories:
            of_category.setdefault(category, []).append(part)
    return [ratio("accuracy", parts)] + [ratio(name, of_category[name]) for name in sorted(of_category)]


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
