"""Scores answers to VQA (versions 1 and 2) and to VizWiz: how far ten people agree with each answer, in percent.

VQA takes annotations of the official form, and answers as JSON Lines or as a submission (a JSON list of question_id and
answer). VizWiz takes annotations as a JSON list. Its answers are matched by image, so answers as JSON Lines also need
the question file (--question-file); a submission (image and answer) does not.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.command_line import run
from llava.errors import DataError, InvalidRequest
from llava.eval.data.records import (
    Joined,
    joined,
    locate,
    read_annotations,
    read_answers,
    read_predictions,
    text_field,
)
from llava.eval.scoring.answers import answers_to
from llava.eval.scoring.estimates import Estimate, Part, ratio
from llava.eval.scoring.marks import MarkedAnswer
from llava.eval.scoring.scorer import FileFlag, Scorer, ScorerInput
from llava.eval.scoring.short_answers import NUM_PEOPLE, mark_by_people, vqa_accuracy, vqa_form
from llava.files.json_files import json_type, read_json


@dataclass(frozen=True, slots=True)
class VqaQuestion:
    """One question and the answers of ten people."""

    id: str
    """The id; in VizWiz the name of the image."""
    people: tuple[str, ...]
    """The answers of ten people."""
    answer_type: str
    """Type of the answer, such as yes/no, number, other or unanswerable; empty if the file does not have it."""
    question_type: str
    """First words of the question, such as `how many`; empty if the file does not have them."""
    text: str | None
    """Text of the question, if the file has it."""
    image: str | None
    """Name or id of the image, if the file has it."""


def read(annotation_file: str, result_file: str, question_file: str | None) -> list[ScorerInput[VqaQuestion]]:
    """Reads annotations and answers of either benchmark."""
    questions, is_vizwiz = read_questions(annotation_file)
    if is_vizwiz:
        found = _by_image(result_file, question_file)
    else:
        found = read_predictions(result_file, key="question_id", field="answer")
    answers = answers_to([one.id for one in questions], found, source=annotation_file)
    return [ScorerInput(questions, answers, benchmark="VizWiz" if is_vizwiz else "VQA")]


def read_questions(path: str) -> tuple[list[VqaQuestion], bool]:
    """Reads the annotations; also returns whether they are VizWiz's.

    Raises:
        DataError: the file has neither form, or a question lacks a field or its ten answers.
    """
    content = read_json(locate(path, remedy="Pass the benchmark's annotation file."))
    is_vizwiz = isinstance(content, list)
    records = read_annotations(path, within=None if is_vizwiz else "annotations")
    return [_question(record, place, "image" if is_vizwiz else "question_id") for place, record in records], is_vizwiz


def _question(record: dict[str, Any], place: str, key: str) -> VqaQuestion:
    identity = text_field(record, key, place, allow_number=True)
    people = record.get("answers")
    if not isinstance(people, list) or len(people) != NUM_PEOPLE:
        found = len(people) if isinstance(people, list) else f"a JSON {json_type(people)}"
        raise DataError(
            f"{place} ({identity}): 'answers' must be a list of {NUM_PEOPLE} answers, found {found}. "
            "A test split has none: convert the answers and submit them."
        )
    if not all(isinstance(one, dict) for one in people):
        raise DataError(f"{place} ({identity}): each of the 'answers' must be an object with 'answer'.")
    texts = tuple(text_field(one, "answer", f"{place} ({identity}): answer", allow_number=True) for one in people)
    question, image = record.get("question"), record.get("image", record.get("image_id"))
    return VqaQuestion(
        identity,
        texts,
        str(record.get("answer_type", "")),
        str(record.get("question_type", "")),
        question if isinstance(question, str) else None,
        None if image is None else str(image),
    )


def _by_image(result_file: str, question_file: str | None) -> Joined:
    """Reads answers to VizWiz by image, which has one question each."""
    found = read_predictions(result_file, key="image", field="answer")
    if not all("question_id" in line.record for line in found.lines.values()):
        return found
    if question_file is None:
        raise InvalidRequest(
            "answers with question_id need --question-file: the questions that the model was asked name the images."
        )
    questions = read_answers(locate(question_file))
    lines = []
    for identity, line in found.lines.items():
        asked = questions.lines.get(identity)
        image = identity
        if asked is not None:
            image = text_field(asked.record, "image", questions.place(identity), allow_number=True)
        lines.append(line._replace(record=line.record | {"image": Path(image).name}))
    again = joined(lines, found.path, key="image")
    return Joined(again.path, again.lines, found.duplicates + again.duplicates, found.unit)


def mark(question: VqaQuestion, text: str | None) -> MarkedAnswer:
    """Marks the answer to a question."""
    return mark_by_people(
        question.id,
        text,
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


def figures(questions: Sequence[VqaQuestion], marks: Sequence[MarkedAnswer]) -> list[Estimate]:
    """Returns the accuracy of all questions, and of each type of answer and of question, in percent."""
    of_category: dict[str, list[Part]] = {}
    parts = [Part(one.score or 0.0, group=one.image) for one in marks]
    for one, part in zip(marks, parts, strict=True):
        for category in one.categories:
            of_category.setdefault(category, []).append(part)
    return [ratio("accuracy", parts)] + [ratio(name, of_category[name]) for name in sorted(of_category)]


SCORER = Scorer(
    "VQA",
    flags=(
        FileFlag(
            ("--annotation-file",), "Annotations, such as v2_mscoco_val2014_annotations.json or VizWiz's val.json."
        ),
        FileFlag(("--result-file",), "Answers of the model (JSON Lines), or a submission (JSON list)."),
        FileFlag(("--question-file",), "VizWiz: questions that the model was asked (JSON Lines).", is_required=False),
    ),
    read=read,
    mark=mark,
    figures=figures,
)
add_arguments, main = SCORER.add_arguments, SCORER.main

if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
