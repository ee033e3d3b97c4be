"""What the scorers of all benchmarks share: answers joined with questions, what is odd about them, figures told.

A scorer says which questions there are and what an answer is worth. Nothing is lost on the way: questions without an
answer, answers that are there twice, that belong to no question or that cannot be understood are counted and named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava.errors import DataError
from llava.eval.data.records import Joined, id_of, joined, locate, read_answers, some
from llava.eval.scoring.estimates import Estimate, table
from llava.eval.scoring.marks import MarkedAnswer, MarkSheet, marks_as_json
from llava.files.json_files import Line, json_type, read_json, read_jsonl, read_text, write_json

WRONG = "counted as wrong"


@dataclass(frozen=True)
class Answers:
    """The answers of a file to the questions of a benchmark."""

    path: Path
    texts: dict[str, str]
    """By id, in the order of the questions; without those that have no answer."""
    missing: list[str]
    duplicate: list[str]
    unknown: list[str]
    model: str | None = None
    """What the first answer says about who wrote it."""


@dataclass(frozen=True)
class Result:
    """A marked run, ready to be told."""

    benchmark: str
    answers: Answers
    marks: list[MarkedAnswer]
    estimates: list[Estimate]
    more: dict[str, Any] = field(default_factory=dict)
    """What else the file of `--output` shall hold."""

    @property
    def unparsable(self) -> list[str]:
        return [mark.question_id for mark in self.marks if mark.text is not None and mark.parsed is None]


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="where to write figures with their errors, odd ids and all marks, as JSON; its folder is made",
    )


def add_conversion(parser: argparse.ArgumentParser) -> None:
    """The flags of a command that turns answers into a file of another form."""
    parser.add_argument("--src", required=True, metavar="FILE", help="answers, JSON Lines")
    parser.add_argument("--dst", required=True, metavar="FILE", help="the file to write, JSON; its folder is made")


def read_predictions(path: str | Path, *, key: str, field: str) -> Joined:
    """Answers in either of two forms: JSON Lines of `question_id` and `text`, or a submission, a JSON list.

    Args:
        key, field: what a submission calls the id and the answer.

    Returns:
        Records that hold the answer as `text`.

    Raises:
        DataError: neither form, no records, or one without id; names file and line (or record).
    """
    path = locate(path, remedy="Give the answers of the generator, or a submission.")
    if not read_text(path).lstrip().startswith("["):
        return read_answers(path)
    lines = []
    for number, (place, record) in enumerate(records_of(path), start=1):
        if field not in record:
            raise DataError(f"{place} has no {field!r}. Is it a submission to this benchmark?")
        lines.append(Line(number, {**record, "text": record[field]}))
    return joined(lines, path, key=key, unit="record")


def read_answers_by(path: str | Path, **fields: str) -> Joined:
    """Answers whose `question_id` alone says too little: joined by several fields (`compound`).

    Args:
        fields: what else belongs to the id, each with what it is where a record does not say.

    Raises:
        DataError: not JSON Lines, no records, or a record without id; names file and line.
    """
    path = locate(path, remedy="Give the answers of the generator.")

    def identity(record: dict[str, Any], place: str) -> str:
        return compound(id_of(record, "question_id", place), *(record.get(one, fields[one]) for one in fields))

    return joined(read_jsonl(path), path, key=identity)


def compound(*parts: object) -> str:
    """An id made of several."""
    return " | ".join(str(part).strip() for part in parts)


def answers_to(questions: Collection[str], found: Joined, *, of: str | Path) -> Answers:
    """The answers to the questions, and which are odd.

    Args:
        questions: their ids, in order.
        of: the file of questions, for messages.

    Raises:
        DataError: not one answer belongs to a question, or one has no text.
    """
    wanted = set(questions)
    unknown = [identity for identity in found.lines if identity not in wanted]
    if len(unknown) == len(found.lines):
        raise DataError(
            f"{found.path}: none of its {len(unknown)} answers belongs to a question of {of} "
            f"(the first is to {unknown[0]}). Are they from this benchmark and this split?"
        )
    texts = {identity: found.text(identity, "text") for identity in questions if identity in found.lines}
    missing = [identity for identity in questions if identity not in found.lines]
    duplicate = [identity for identity in found.duplicates if identity in wanted]
    first = next(iter(found.lines.values())).record.get("model_id")
    return Answers(found.path, texts, missing, duplicate, unknown, first if isinstance(first, str) else None)


def warn(
    answers: Answers,
    unparsable: Sequence[str] = (),
    *,
    missing: str = WRONG,
    understood: str = "answers that could not be understood",
    consequence: str = WRONG,
) -> None:
    """Says on standard error what was odd about the answers, and what became of it.

    Args:
        missing: what became of questions without an answer.
        understood, consequence: what the ids in `unparsable` are, and what became of them.
    """
    for what, becomes, ids in (
        ("questions without an answer", missing, answers.missing),
        ("questions answered more than once", "the last answer counts", answers.duplicate),
        ("answers to no question of this benchmark", "left out", answers.unknown),
        (understood, consequence, unparsable),
    ):
        if ids:
            print(f"warning: {answers.path}: {what}: {len(ids)} ({becomes}): {some(ids)}", file=sys.stderr)


def warn_of_duplicates(found: Joined) -> None:
    """The same where the questions themselves are not at hand."""
    warn(Answers(found.path, {}, [], found.duplicates, []))


def tell(result: Result, output: str | None, **consequences: str) -> None:
    """Prints the figures, warns of what was odd, and writes all of it to `output` if there is one."""
    print(table(result.estimates), flush=True)
    warn(result.answers, result.unparsable, **consequences)
    if output:
        write_json(output, as_json(result))


def as_json(result: Result) -> dict[str, Any]:
    """What `--output` holds: a mark sheet (`llava.eval.scoring.marks`), figures with errors, ids of odd answers."""
    figures = {one.name: one.value for one in result.estimates if one.value is not None}
    sheet = marks_as_json(MarkSheet(result.benchmark, result.marks, result.answers.model, figures))
    marks = sheet.pop("marks")
    return {
        **sheet,
        "answers_file": str(result.answers.path),
        "estimates": {one.name: one.as_json() for one in result.estimates},
        "missing": result.answers.missing,
        "duplicate": result.answers.duplicate,
        "unknown": result.answers.unknown,
        "unparsable": result.unparsable,
        **result.more,
        "marks": marks,
    }


def text_of(record: Mapping[str, Any], name: str, place: str) -> str:
    """A field of an annotation that must be text; a number is as good as its text.

    Raises:
        DataError: it is missing or something else; `place` begins the message.
    """
    value = record.get(name)
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    found = f"is a JSON {json_type(value)}, expected a string" if name in record else "is missing"
    raise DataError(f"{place}: {name!r} {found}.")


def records_of(path: str | Path, *, within: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a JSON file that is a list, or an object with the list `within`, each with its place for messages.

    Raises:
        DataError: the file is something else, or empty.
    """
    path = locate(path, remedy="Give the benchmark's annotations.")
    content = read_json(path)
    if within is not None and isinstance(content, dict):
        content = content.get(within)
    if not isinstance(content, list):
        wanted = "a JSON list" if within is None else f"a JSON object with a list {within!r}"
        raise DataError(f"{path}: is not {wanted}. Is this the benchmark's file of annotations?")
    if not content:
        raise DataError(f"{path}: holds no records.")
    places = [f"{path}: record {number}" for number in range(1, len(content) + 1)]
    for place, record in zip(places, content, strict=True):
        if not isinstance(record, dict):
            raise DataError(f"{place} is a JSON {json_type(record)}, expected an object.")
    return list(zip(places, content, strict=True))


def complete(answers: Answers, *, use: str) -> Answers:
    """The same answers, if no question is without one.

    Raises:
        DataError: answers are missing; names them and says what the whole would be for.
    """
    if answers.missing:
        raise DataError(
            f"{answers.path}: questions without an answer: {len(answers.missing)} ({some(answers.missing)}). "
            f"{use} must be whole: let the generator finish, and convert again."
        )
    return answers
