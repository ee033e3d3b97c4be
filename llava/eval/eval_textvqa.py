"""Marks answers to TextVQA: how far ten people agree with each, in percent.

An answer belongs to the annotation of its image and question; the question is read out of the prompt that the answers
record. Give one file of answers, or a folder of them.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava.command_line import run
from llava.errors import DataError, InvalidRequest
from llava.eval.data.records import Joined, joined, locate
from llava.eval.scoring.answers import Answers, Result, add_output, answers_to, compound, records_of, tell, text_of
from llava.eval.scoring.estimates import Part, ratio
from llava.eval.scoring.marks import MarkedAnswer
from llava.eval.scoring.short_answers import NUM_PEOPLE, mark_by_people, server_accuracy, server_form
from llava.files.json_files import read_jsonl


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotation-file", required=True, metavar="FILE", help="TextVQA_0.5.1_val.json")
    parser.add_argument("--result-file", metavar="FILE", help="answers, JSON Lines")
    parser.add_argument("--result-dir", metavar="DIR", help="folder whose *.jsonl are marked, one after the other")
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    files = _files(args)
    questions = read_questions(args.annotation_file)
    for file in files:
        answers = answers_to([one.id for one in questions], read_results(file, questions), of=args.annotation_file)
        marks = [mark(one, answers) for one in questions]
        accuracy = ratio("accuracy", [Part(one.score or 0.0, group=one.image) for one in marks])
        print(file.stem)
        print(f"Samples: {len(answers.texts)}\nAccuracy: {accuracy.value:.2f}%\n")
        tell(Result("TextVQA", answers, marks, [accuracy]), args.output)
    return 0


def _files(args: argparse.Namespace) -> list[Path]:
    files = [locate(args.result_file)] if args.result_file else []
    if args.result_dir:
        folder = locate(args.result_dir)
        found = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
        if not found:
            raise DataError(f"{folder}: holds no *.jsonl. Give the folder that the generator wrote to.")
        files += found
    if not files:
        raise InvalidRequest("give --result-file or --result-dir: the answers to mark.")
    if args.output and len(files) > 1:
        raise InvalidRequest("--output is for one file of answers; there are several. Mark them one by one.")
    return files


@dataclass(frozen=True, slots=True)
class Question:
    """One question and what ten people answered."""

    id: str
    image: str
    text: str
    people: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        """What answers are known by."""
        return self.image, self.text.lower()


def read_questions(path: str) -> list[Question]:
    """The annotations.

    Raises:
        DataError: another kind of file, or a question without a field or without its ten answers.
    """
    questions = []
    last: dict[tuple[str, str], tuple[str, ...]] = {}
    for place, record in records_of(path, within="data"):
        identity, image, text = (text_of(record, name, place) for name in ("question_id", "image_id", "question"))
        people = record.get("answers")
        if not isinstance(people, list) or len(people) != NUM_PEOPLE:
            raise DataError(f"{place}: 'answers' must be {NUM_PEOPLE} texts. The test split has none: submit it.")
        questions.append(Question(identity, image, text, tuple(map(str, people))))
        last[questions[-1].key] = questions[-1].people
    # Of a question that is there twice, the published figures know the last annotation only.
    return [replace(one, people=last[one.key]) for one in questions]


def read_results(path: Path, questions: list[Question]) -> Joined:
    """The answers of a file, by the id of their question; one that asks nothing known keeps what it asks as its id.

    Raises:
        DataError: a record without image, prompt or text, or a prompt in no known form; names file and line.
    """
    waiting: dict[tuple[str, str], list[str]] = {}
    for question in questions:
        waiting.setdefault(question.key, []).append(question.id)

    def identity(record: dict[str, Any], place: str) -> str:
        image = text_of(record, "question_id", place)
        asked = question_in(text_of(record, "prompt", place), place)
        ids = waiting.get((image, asked), [compound(image, asked)])
        # A question that is there twice is answered twice; what is beyond that is a repetition of the last.
        return ids.pop(0) if len(ids) > 1 else ids[0]

    return joined(read_jsonl(path), path, key=identity)


def question_in(prompt: str, place: str) -> str:
    """The question in a prompt, in lower case.

    Known forms: the question and one line behind it; with a line `Reference OCR token: ...` before it or between them;
    `OCR tokens: ... Question: ... Short answer:`.

    Raises:
        DataError: another form; `place` begins the message.
    """
    if prompt.startswith("OCR tokens: "):
        found = re.search(r"Question: (.*?) Short answer:", prompt, re.DOTALL)
        if found:
            return found[1].lower()
    lines = prompt.split("\n")
    if len(lines) == 3 and "Reference OCR token: " in prompt:
        return lines[1 if prompt.startswith("Reference OCR token:") else 0].lower()
    if len(lines) == 2:
        return lines[0].lower()
    raise DataError(
        f"{place}: 'prompt' has {len(lines)} lines in no known form. Expected the question, the recognised text "
        "(`Reference OCR token: ...`) if any, and a line that says how to answer."
    )


def mark(question: Question, answers: Answers) -> MarkedAnswer:
    """What the answer to a question is worth."""
    return mark_by_people(
        question.id,
        answers.texts.get(question.id),
        question.people,
        accuracy=server_accuracy,
        form=server_form,
        question=question.text,
        image=question.image,
    )


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
