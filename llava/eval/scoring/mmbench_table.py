"""MMBench's questions: a table of tab-separated values, of which the images (base64) are not read here.

Two ways of asking one question several times, with its options in rotation, are in use: the table holds the rotated
questions, whose index is larger by a multiple of a million; or the generator rotates (`--all-rounds`), and its answers
say the round and which option stood behind which letter.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llava.errors import DataError
from llava.eval.data.records import locate, normal_id
from llava.files.json_files import read_text

LETTERS = "ABCDEFGHIJ"
ROTATION = 1_000_000
"""Between the indices of a question and of the same question with its options rotated."""


@dataclass(frozen=True)
class Table:
    """The rows of a benchmark file, as they stand in it."""

    path: Path
    columns: list[str]
    rows: list[dict[str, str]]

    @property
    def has_answers(self) -> bool:
        return "answer" in self.columns


@dataclass(frozen=True, slots=True)
class Question:
    """One row."""

    index: str
    text: str
    options: dict[str, str]
    """By letter."""
    answer: str
    """A letter."""
    category: str
    group: str
    """The larger category that `category` belongs to."""

    @property
    def base(self) -> str:
        """Index of the question of which this is a rotation."""
        return str(int(self.index) % ROTATION) if self.index.isdigit() else self.index


def add_table(parser: argparse.ArgumentParser) -> None:
    """The flag that says where a benchmark file is."""
    parser.add_argument(
        "--annotation-file",
        required=True,
        metavar="FILE",
        help="the benchmark's table, such as mmbench_dev_20230712.tsv",
    )


def read_table(path: str | Path) -> Table:
    """Reads a benchmark file.

    Raises:
        DataError: not tab-separated values with an `index`, no rows, a row of another length, or an index twice.
    """
    path = locate(path, remedy="Give the benchmark's table, such as mmbench_dev_20230712.tsv.")
    csv.field_size_limit(sys.maxsize)  # an image is one field
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter="\t")
    columns = next(reader, [])
    if "index" not in columns:
        raise DataError(f"{path}: has no column 'index'. Is it the benchmark's table of tab-separated values?")
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    for values in reader:
        if not values:
            continue
        place = f"{path}: line {reader.line_num}"
        if len(values) != len(columns):
            raise DataError(f"{place}: has {len(values)} fields, the header {len(columns)}.")
        row = dict(zip(columns, values, strict=True))
        row["index"] = normal_id(row["index"], f"{place}: 'index'")
        if row["index"] in seen:
            raise DataError(f"{place}: index {row['index']} is there twice.")
        seen.add(row["index"])
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: holds no questions.")
    return Table(path, columns, rows)


def questions(table: Table) -> list[Question]:
    """The rows as questions with answers.

    Raises:
        DataError: the table has no answers, a row no options, or an answer that is none of them.
    """
    if not table.has_answers:
        raise DataError(f"{table.path}: has no column 'answer' (a test split). Convert the answers and submit them.")
    return [_question(row, f"{table.path}: index {row['index']}") for row in table.rows]


def options_of(row: dict[str, str]) -> dict[str, str]:
    """A row's options by letter; they end at the first that is empty."""
    options = {}
    for letter in LETTERS:
        if is_empty(row.get(letter)):
            break
        options[letter] = row[letter]
    return options


def is_empty(value: str | None) -> bool:
    """Whether a field says nothing: tables are written by programs that spell this in several ways."""
    return value is None or value.strip().lower() in ("", "nan", "none")


def _question(row: dict[str, str], place: str) -> Question:
    options = options_of(row)
    answer = row["answer"].strip()
    if not options or answer not in options:
        raise DataError(f"{place}: the answer {answer!r} is none of the options {', '.join(options) or '(none)'}.")
    group = row.get("l2-category", row.get("L2-category", ""))
    return Question(row["index"], row.get("question", ""), options, answer, row.get("category", ""), group)


def named_option(text: str, options: Iterable[str] | dict[str, str]) -> str | None:
    """The letter of the option that an answer names, or None.

    The benchmark's matching without its language model: exactly one letter stands alone in the text, marks of
    punctuation aside (an `A` in more than three words is taken for the article); otherwise exactly one option's words
    are in it.
    """
    letters = list(options)
    words = "".join(" " if mark in _MARKS else mark for mark in text).split()
    found = [letter for letter in letters if letter in words]
    if len(found) == 1 and not (found == ["A"] and len(words) > 3):
        return found[0]
    if not isinstance(options, dict):
        return None
    spelled = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return spelled[0] if len(spelled) == 1 else None


_MARKS = ".()[],:;!*#{}"
