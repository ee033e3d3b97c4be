"""Question and answer files: found where a README command means them, read, and joined by question id.

Every evaluator reads and writes through here and `llava.files.json_files`, so that a broken file gets the same message
everywhere, and no two files are ever joined by the order of their lines.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.errors import DataError
from llava.files.json_files import Line, json_type, read_json, read_jsonl, read_text

EVAL_FOLDER = Path(__file__).resolve().parents[1]
REPOSITORY = EVAL_FOLDER.parents[1]


@dataclass(frozen=True)
class Joined:
    """The records of a file by their id, in the order in which each id first appears."""

    path: Path
    lines: dict[str, Line]
    """Where an id is there several times, its last record: the one that was written last."""
    duplicates: list[str]
    """Ids that are there more than once."""
    unit: str = "line"
    """What a `Line.number` counts in this file."""

    def place(self, identity: str) -> str:
        """What an error message calls the record of an id."""
        return f"{self.path}: {self.unit} {self.lines[identity].number} (question {identity})"

    def text(self, identity: str, field: str) -> str:
        """A field that must be text; it may be empty.

        Raises:
            DataError: it is missing or something else; names file, line and id.
        """
        return text_field(self.lines[identity].record, field, self.place(identity))


def locate(path: str | Path, *, remedy: str = "Check the path.") -> Path:
    """Where an input is: as given, or below the repository's root, or below llava/eval.

    The README's commands are run from more than one folder and name their files relative to either. Where it was not
    as given, the place is said on standard error.

    Raises:
        DataError: nowhere; names the places.
    """
    path = Path(path).expanduser()
    if path.exists():
        return path
    if path.is_absolute():
        raise DataError(f"{path}: no such file or folder. {remedy}")
    for folder in (REPOSITORY, EVAL_FOLDER):
        if (folder / path).exists():
            print(f"note: {path} is not below the current folder; using {folder / path}", file=sys.stderr)
            return folder / path
    raise DataError(f"{path}: no such file or folder, neither here nor in {REPOSITORY} nor in {EVAL_FOLDER}. {remedy}")


def read_answers(path: Path, *, key: str = "question_id") -> Joined:
    """Reads a JSON Lines file of answers (or of reviews, or of questions) by id.

    Raises:
        DataError: not JSON Lines, no records, or a record without id; names file and line.
    """
    return joined(read_jsonl(path), path, key=key)


def read_questions(path: Path) -> Joined:
    """Reads a question file: JSON Lines with `question_id`, or a JSON list with `id` (ScienceQA, training data).

    Raises:
        DataError: neither of them, no records, or a record without id; names file and line (or place in the list).
    """
    if not read_text(path).lstrip().startswith("["):
        return read_answers(path)
    lines = [Line(number, record) for number, record in enumerate(read_json(path), start=1)]
    for number, record in lines:
        if not isinstance(record, dict):
            raise DataError(f"{path}: record {number} is a JSON {json_type(record)}, expected an object.")
    return joined(lines, path, key="id", unit="record")


def joined(
    lines: Iterable[Line], path: Path, *, key: str | Callable[[dict[str, Any], str], str], unit: str = "line"
) -> Joined:
    """Records by id; ids that are numbers in one file and strings in another are the same.

    Args:
        key: the field with the id; where that says too little, what makes an id of a record and its place.

    Raises:
        DataError: no records, or one without id.
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


def text_field(record: dict[str, Any], field: str, place: str) -> str:
    """A field that must be text; it may be empty.

    Raises:
        DataError: it is missing or something else; `place` begins the message.
    """
    value = record.get(field)
    if not isinstance(value, str):
        found = f"is a JSON {json_type(value)}, expected a string" if field in record else "is missing"
        raise DataError(f"{place}: {field!r} {found}.")
    return value


def id_of(record: dict[str, Any], key: str, place: str) -> str:
    """The id of a record, as `normal_id` has it.

    Raises:
        DataError: it has none; `place` begins the message.
    """
    if key not in record:
        raise DataError(f"{place} has no {key!r}. Is this the right kind of file?")
    return normal_id(record[key], f"{place}: {key!r}")


def normal_id(value: Any, place: str) -> str:
    """An id as text: 12, "12" and " 12" are one.

    Raises:
        DataError: the value is neither a whole number nor text with something in it; `place` begins the message.
    """
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{place} is {value!r}; an id is a whole number or a string.")


def some(ids: Collection[str], limit: int = 5) -> str:
    """The first ids, and how many more there are: `3, 5, 8 and 4 more`."""
    first = ", ".join(list(ids)[:limit])
    return f"{first} and {len(ids) - limit} more" if len(ids) > limit else first
