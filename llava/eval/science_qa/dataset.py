"""Reads ScienceQA as its authors publish it: `problems.json` and `pid_splits.json` in one folder."""

from __future__ import annotations

import argparse
import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.errors import DataError, InvalidRequest
from llava.eval.data.records import locate, normal_id
from llava.files.json_files import json_type, read_json

PROBLEMS, SPLITS = "problems.json", "pid_splits.json"
OPTIONS = "ABCDE"
SUBJECTS = ("natural science", "social science", "language science")
_GRADE = re.compile(r"grade(\d{1,2})")
_REMEDY = f"--base-dir must be the folder of ScienceQA, which contains {PROBLEMS} and {SPLITS}."


@dataclass(frozen=True, slots=True)
class Problem:
    """One multiple-choice question."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    """Index of the correct choice."""
    hint: str
    """Text that goes with the question; often empty."""
    lecture: str
    solution: str
    image: str | None
    """File name of the image, which is in a folder named by the id; None without an image."""
    subject: str | None
    """One of SUBJECTS, or None."""
    grade: int | None
    """School year, 1 to 12, or None."""

    @property
    def image_path(self) -> str | None:
        """Path of the image, relative to the folder of the split's images."""
        return None if self.image is None else f"{self.id}/{self.image}"


@dataclass(frozen=True)
class ScienceQA:
    """The whole data set. Problems are checked when their split is requested."""

    folder: Path
    splits: dict[str, Any]
    problems: dict[str, Any]

    def split(self, name: str, *, num_options: int = len(OPTIONS)) -> list[Problem]:
        """Returns the problems of a split, in its order.

        Raises:
            DataError: the split does not exist or is empty, or a problem is malformed. The message names file and
                problem.
        """
        file = str(self.folder / PROBLEMS)
        return [self._problem(identity, file, name, num_options) for identity in self.ids(name)]

    def ids(self, name: str) -> list[str]:
        """Returns the ids of a split, each once.

        Raises:
            DataError: the split does not exist, is not a list of ids or is empty.
        """
        file = self.folder / SPLITS
        if name not in self.splits:
            close = difflib.get_close_matches(name, self.splits, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise DataError(f"{file}: has no split {name!r}. The splits are {', '.join(self.splits)}.{hint}")
        ids = self.splits[name]
        if not isinstance(ids, list) or not ids:
            raise DataError(f"{file}: split {name!r} is not a list of ids, or is empty.")
        place = f"{file}: in split {name!r} an id"
        return list(dict.fromkeys(normal_id(value, place) for value in ids))

    def splits_of(self, ids: set[str]) -> list[str]:
        """Returns the splits that have exactly these ids, or else those that include them."""
        known = {name: set(map(str, members)) for name, members in self.splits.items() if isinstance(members, list)}
        exact = [name for name, members in known.items() if members == ids]
        return exact or [name for name, members in known.items() if members >= ids]

    def _problem(self, identity: str, file: str, split: str, num_options: int) -> Problem:
        if identity not in self.problems:
            raise DataError(
                f"{file}: has no problem {identity!r}, which {SPLITS} lists in split {split!r}. "
                "The two files are from different versions of the data."
            )
        return parse_problem(identity, self.problems[identity], f"{file}: problem {identity}", num_options)


@dataclass(frozen=True, slots=True)
class ScienceQaSelection:
    """The problems that a scorer is about."""

    base_dir: str
    """Folder of ScienceQA."""
    split: str
    options: tuple[str, ...]
    """Letters of the choices, in their order."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> ScienceQaSelection:
        """Reads the flags of `add_arguments`.

        Raises:
            InvalidRequest: the letters of --options are not different capital letters.
        """
        letters = args.options
        if len(set(letters)) != len(letters) or not all("A" <= letter <= "Z" for letter in letters):
            raise InvalidRequest(f"--options {letters}: give different capital letters, such as {OPTIONS}.")
        return cls(args.base_dir, args.split, tuple(letters))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `ScienceQaSelection`."""
    parser.add_argument(
        "--base-dir", required=True, metavar="DIR", help=f"Folder of ScienceQA, which contains {PROBLEMS} and {SPLITS}."
    )
    parser.add_argument("--split", default="test", metavar="NAME", help=f"Split named in {SPLITS} (default: test).")
    parser.add_argument(
        "--options",
        default=OPTIONS,
        metavar="LETTERS",
        help=f"Letters of the choices, in their order (default: {OPTIONS}).",
    )


def problems_of(selection: ScienceQaSelection) -> tuple[ScienceQA, list[Problem]]:
    """Returns the data set and the selected problems.

    Raises:
        DataError: as in `open_science_qa` and `ScienceQA.split`.
    """
    data = open_science_qa(selection.base_dir)
    return data, data.split(selection.split, num_options=len(selection.options))


def open_science_qa(base_dir: str | Path) -> ScienceQA:
    """Reads the two files.

    Raises:
        DataError: the folder or a file is missing, or a file contains something else.
    """
    folder = locate(base_dir, remedy=_REMEDY)
    contents = []
    for name in (SPLITS, PROBLEMS):
        content = read_json(folder / name, remedy=_REMEDY)
        if not isinstance(content, dict):
            raise DataError(f"{folder / name}: contains a JSON {json_type(content)}, expected an object. {_REMEDY}")
        contents.append(content)
    return ScienceQA(folder, *contents)


def parse_problem(identity: str, raw: Any, place: str, num_options: int = len(OPTIONS)) -> Problem:
    """Turns one value of `problems.json` into a `Problem`. Every error message begins with `place`.

    Raises:
        DataError: a field is missing, has the wrong type or is out of bounds.
    """
    if not isinstance(raw, dict):
        raise DataError(f"{place}: is a JSON {json_type(raw)}, expected an object.")
    choices = raw.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise DataError(f"{place}: 'choices' must be a list of strings, found {choices!r}.")
    if len(choices) > num_options:
        raise DataError(f"{place}: has {len(choices)} choices, but only {num_options} letters. Give more --options.")
    answer = raw.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise DataError(f"{place}: 'answer' must be the index of one of the {len(choices)} choices, found {answer!r}.")
    subject = raw.get("subject")
    if subject is not None and subject not in SUBJECTS:
        raise DataError(f"{place}: 'subject' is {subject!r}, expected one of {', '.join(SUBJECTS)}.")
    return Problem(
        id=identity,
        question=_text(raw, "question", place),
        choices=tuple(choices),
        answer=answer,
        hint=_text(raw, "hint", place, default=""),
        lecture=_text(raw, "lecture", place, default=""),
        solution=_text(raw, "solution", place, default=""),
        image=_text(raw, "image", place, default="") or None,
        subject=subject,
        grade=_grade(raw.get("grade"), place),
    )


def _text(raw: dict[str, Any], field: str, place: str, *, default: str | None = None) -> str:
    value = raw.get(field)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise DataError(f"{place}: {field!r} must be a string, found a JSON {json_type(value)}.")
    return value


def _grade(value: Any, place: str) -> int | None:
    if value is None:
        return None
    match = _GRADE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 1 <= int(match.group(1)) <= 12:
        raise DataError(f"{place}: 'grade' is {value!r}, expected grade1 to grade12.")
    return int(match.group(1))
