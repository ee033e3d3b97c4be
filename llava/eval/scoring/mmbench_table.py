"""Reads the questions of MMBench: a table of tab-separated values.

There are two ways to ask a question several times with its options rotated. Either the table contains the rotated
questions, whose index is larger by a multiple of a million; or `model_vqa_mmbench --all-rounds` rotates the options,
and its answers record the round and which option each letter stood for.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llava.errors import DataError
from llava.eval.data.records import locate, normal_id
from llava.eval.scoring.scorer import FileFlag
from llava.files.json_files import read_text

LETTERS = "ABCDEFGHIJ"
ROTATION = 1_000_000
"""Difference between the index of a question and that of the same question with its options rotated."""
_PUNCTUATION = ".()[],:;!*#{}"


@dataclass(frozen=True)
class MMBenchTable:
    """The rows of a benchmark file."""

    path: Path
    """The file."""
    columns: list[str]
    """Names of the columns, in order."""
    rows: list[dict[str, str]]
    """Values of each row by column."""

    @property
    def has_answers(self) -> bool:
        """Whether the table has the correct answers; a test split has not."""
        return "answer" in self.columns


@dataclass(frozen=True, slots=True)
class MMBenchQuestion:
    """One row of the table."""

    index: str
    """The id."""
    text: str
    """Text of the question."""
    options: dict[str, str]
    """The options by letter."""
    answer: str
    """Letter of the correct option."""
    category: str
    """Category of the question; empty if the table has none."""
    group: str
    """The larger category that `category` belongs to; empty if the table has none."""

    @property
    def base(self) -> str:
        """Index of the question that this is a rotation of."""
        return str(int(self.index) % ROTATION) if self.index.isdigit() else self.index


TABLE_FILE = FileFlag(("--annotation-file",), "Table of the benchmark, such as mmbench_dev_20230712.tsv.")


def read_table(path: str | Path) -> MMBenchTable:
    """Reads a benchmark file.

    Raises:
        DataError: the file is not a table of tab-separated values with a column `index` or has no rows, a row has the
            wrong number of fields, or an index appears twice; names file and line.
    """
    path = locate(path, remedy="Pass the table of the benchmark, such as mmbench_dev_20230712.tsv.")
    csv.field_size_limit(sys.maxsize)  # a field may hold an image
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter="\t")
    columns = next(reader, [])
    if "index" not in columns:
        raise DataError(f"{path}: has no column 'index'. Is it the table of MMBench (tab-separated values)?")
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    for values in reader:
        if not values:
            continue
        place = f"{path}: line {reader.line_num}"
        if len(values) != len(columns):
            raise DataError(f"{place}: has {len(values)} fields, but the header has {len(columns)}.")
        row = dict(zip(columns, values, strict=True))
        row["index"] = normal_id(row["index"], f"{place}: 'index'")
        if row["index"] in seen:
            raise DataError(f"{place}: index {row['index']} appears twice.")
        seen.add(row["index"])
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: holds no questions.")
    return MMBenchTable(path, columns, rows)


def questions(table: MMBenchTable) -> list[MMBenchQuestion]:
    """Returns the rows as questions with answers.

    Raises:
        DataError: the table has no answers, a row has no options, or an answer is not one of the options.
    """
    if not table.has_answers:
        raise DataError(
            f"{table.path}: has no column 'answer', so it is a test split. Convert the answers and submit them."
        )
    return [_question(row, f"{table.path}: index {row['index']}") for row in table.rows]


def options_of(row: dict[str, str]) -> dict[str, str]:
    """Returns the options of a row by letter, up to the first empty one."""
    options = {}
    for letter in LETTERS:
        if is_empty(row.get(letter)):
            break
        options[letter] = row[letter]
    return options


def is_empty(value: str | None) -> bool:
    """Returns whether a field is empty; the programs that write such tables spell this in several ways."""
    return value is None or value.strip().lower() in ("", "nan", "none")


def _question(row: dict[str, str], place: str) -> MMBenchQuestion:
    options = options_of(row)
    answer = row["answer"].strip()
    if not options or answer not in options:
        raise DataError(f"{place}: the answer {answer!r} is not one of the options {', '.join(options) or '(none)'}.")
    group = row.get("l2-category", row.get("L2-category", ""))
    return MMBenchQuestion(row["index"], row.get("question", ""), options, answer, row.get("category", ""), group)


def named_option(text: str, options: Iterable[str] | dict[str, str]) -> str | None:
    """Returns the letter of the option that an answer names, or None.

    This is the benchmark's matching without its language model. The answer names an option if exactly one letter stands
    alone in it, punctuation aside (`A` among more than three words is taken for the article); otherwise if it contains
    the words of exactly one option.
    """
    letters = list(options)
    words = "".join(" " if mark in _PUNCTUATION else mark for mark in text).split()
    found = [letter for letter in letters if letter in words]
    if len(found) == 1 and not (found == ["A"] and len(words) > 3):
        return found[0]
    if not isinstance(options, dict):
        return None
    spelled = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return spelled[0] if len(spelled) == 1 else None
