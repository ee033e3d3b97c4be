"""Reads question, answer and annotation files, and indexes their records by id.

Every evaluator reads through this module and `llava.files.json_files`, so that a broken file gets the same message
everywhere and no two files are ever matched by the order of their lines.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.errors import DataError
from llava.files.json_files import Line, json_type, read_json, read_jsonl, read_text

EVAL_FOLDER = Path(__file__).resolve().parents[1]
REPOSITORY = EVAL_FOLDER.parents[1]


@dataclass(frozen=True)
class Joined:
    """The records of a file by id, in the order in which each id first appears."""

    path: Path
    """The file."""
    lines: dict[str, Line]
    """Records by id. If an id appears several times, the last record counts."""
    duplicates: list[str]
    """Ids that appear more than once."""
    unit: str = "line"
    """What a `Line.number` counts in this file: `line` or `record`."""

    def place(self, identity: str) -> str:
        """Returns what an error message calls the record of an id."""
        return f"{self.path}: {self.unit} {self.lines[identity].number} (question {identity})"

    def text(self, identity: str, field: str) -> str:
        """Returns a text field of a record; it may be empty.

        Raises:
            DataError: the field is missing or is not a string; names file, line and id.
        """
        return text_field(self.lines[identity].record, field, self.place(identity))


# Files


def locate(path: str | Path, *, remedy: str = "Check the path.") -> Path:
    """Finds an input file or folder: as given, or below the repository's root, or below llava/eval.

    The README's commands are run from more than one folder and name their files relative to either. If the path does
    not exist as given, a note on standard error says which one is used.

    Raises:
        DataError: the path exists in none of the places; names them.
    """
    path = Path(path).expanduser()
    if path.exists():
        return path
    if path.is_absolute():
        raise DataError(f"{path}: no such file or folder. {remedy}")
    for folder in (REPOSITORY, EVAL_FOLDER):
        if (folder / path).exists():
            print(f"note: {path} does not exist in the current folder; using {folder / path}", file=sys.stderr)
            return folder / path
    raise DataError(
        f"{path}: no such file or folder (searched the current folder, {REPOSITORY} and {EVAL_FOLDER}). {remedy}"
    )


def read_answers(path: Path, *, key: str = "question_id") -> Joined:
    """Reads a JSON Lines file of answers, reviews or questions by id.

    Raises:
        DataError: the file is not JSON Lines, has no records, or a record has no id; names file and line.
    """
    return joined(read_jsonl(path), path, key=key)


def read_answers_by(path: str | Path, **fields: str) -> Joined:
    """Reads answers that are identified by several fields: `question_id` and those in `fields` (`compound_id`).

    Args:
        fields: names of the further fields, each with the value to use if a record does not have it.

    Raises:
        DataError: the file is not JSON Lines, has no records, or a record has no id; names file and line.
    """
    path = locate(path, remedy="Pass the answers that the model wrote.")

    def identity(record: dict[str, Any], place: str) -> str:
        return compound_id(id_of(record, "question_id", place), *(record.get(one, fields[one]) for one in fields))

    return joined(read_jsonl(path), path, key=identity)


def read_predictions(path: str | Path, *, key: str, field: str) -> Joined:
    """Reads answers in either of two forms: JSON Lines with `question_id` and `text`, or a submission (a JSON list).

    Args:
        key: the field of a submission that holds the id.
        field: the field of a submission that holds the answer.

    Returns:
        Records that hold the answer as `text`.

    Raises:
        DataError: the file has neither form or no records, or a record has no id; names file and line (or record).
    """
    path = locate(path, remedy="Pass the answers that the model wrote, or a submission.")
    if not read_text(path).lstrip().startswith("["):
        return read_answers(path)
    lines = []
    for number, (place, record) in enumerate(read_annotations(path), start=1):
        if field not in record:
            raise DataError(f"{place} has no {field!r}. Is it a submission to this benchmark?")
        lines.append(Line(number, {**record, "text": record[field]}))
    return joined(lines, path, key=key, unit="record")


def read_questions(path: Path) -> Joined:
    """Reads a question file: JSON Lines with `question_id`, or a JSON list with `id` (ScienceQA, training data).

    Raises:
        DataError: the file has neither form or no records, or a record has no id; names file and line (or record).
    """
    if not read_text(path).lstrip().startswith("["):
        return read_answers(path)
    lines = [Line(number, record) for number, record in enumerate(read_json(path), start=1)]
    for number, record in lines:
        if not isinstance(record, dict):
            raise DataError(f"{path}: record {number} is a JSON {json_type(record)}, expected an object.")
    return joined(lines, path, key="id", unit="record")


def read_annotations(path: str | Path, *, within: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Reads the objects of a JSON list, each with its place for error messages.

    Args:
        within: the field that holds the list, if the file is a JSON object.

    Raises:
        DataError: the file has another form, or the list is empty.
    """
    path = locate(path, remedy="Pass the benchmark's annotation file.")
    content = read_json(path)
    if within is not None and isinstance(content, dict):
        content = content.get(within)
    if not isinstance(content, list):
        expected = "a JSON list" if within is None else f"a JSON object with a list {within!r}"
        raise DataError(f"{path}: expected {expected}. Is this the benchmark's annotation file?")
    if not content:
        raise DataError(f"{path}: holds no records.")
    places = [f"{path}: record {number}" for number in range(1, len(content) + 1)]
    for place, record in zip(places, content, strict=True):
        if not isinstance(record, dict):
            raise DataError(f"{place} is a JSON {json_type(record)}, expected an object.")
    return list(zip(places, content, strict=True))


def joined(
    lines: Iterable[Line], path: Path, *, key: str | Callable[[dict[str, Any], str], str], unit: str = "line"
) -> Joined:
    """Indexes records by id. Ids that are numbers in one file and strings in another are the same.

    Args:
        key: the field that holds the id, or a function that makes an id from a record and its place.
        unit: what the numbers of `lines` count.

    Raises:
        DataError: there are no records, or one has no id.
    """
    by_id: dict[str, Line] = {}
    duplicates: dict[str, None] = {}
    for line in lines:
        place = f"{path}: {unit} {line.number}"
        identity = id_of(line.record, key, place) if isinstance(key, str) else key(line.record, place)
        if identity in by_id:
            duplicates[identity] = None
        by_id[identity] = line
    if not by_id:
        raise DataError(f"{path}: holds no records.")
    return Joined(path, by_id, list(duplicates), unit)


# Fields


def text_field(record: Mapping[str, Any], field: str, place: str, *, allow_number: bool = False) -> str:
    """Returns a text field of a record; it may be empty.

    Questions and answers hold text as JSON strings. The annotations of benchmarks are less strict: an answer such as 2
    may be a JSON number there. Their readers pass `allow_number` and get the number as text.

    Raises:
        DataError: the field is missing or is not text; `place` begins the message.
    """
    value = record.get(field)
    if isinstance(value, str):
        return value
    if allow_number and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    found = f"is a JSON {json_type(value)}, expected a string" if field in record else "is missing"
    raise DataError(f"{place}: {field!r} {found}.")


def annotation_texts(record: Mapping[str, Any], place: str, *fields: str) -> tuple[str, ...]:
    """Returns several text fields of an annotation, numbers as text.

    Raises:
        DataError: a field is missing or is not text; `place` begins the message.
    """
    return tuple(text_field(record, field, place, allow_number=True) for field in fields)


def id_of(record: dict[str, Any], key: str, place: str) -> str:
    """Returns the id of a record in the form of `normal_id`.

    Raises:
        DataError: the record has no id; `place` begins the message.
    """
    if key not in record:
        raise DataError(f"{place} has no {key!r}. Is this the right kind of file?")
    return normal_id(record[key], f"{place}: {key!r}")


def normal_id(value: Any, place: str) -> str:
    """Returns an id as text; 12, "12" and " 12" are the same id.

    Raises:
        DataError: the value is neither an integer nor a non-empty string; `place` begins the message.
    """
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{place} is {value!r}; an id must be an integer or a non-empty string.")


def compound_id(*parts: object) -> str:
    """Returns one id made of several parts."""
    return " | ".join(str(part).strip() for part in parts)


def some(ids: Collection[str], limit: int = 5) -> str:
    """Returns the first ids and the number of the others: `3, 5, 8 and 4 more`."""
    first = ", ".join(list(ids)[:limit])
    return f"{first} and {len(ids) - limit} more" if len(ids) > limit else first
