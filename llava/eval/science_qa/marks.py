"""Marks ScienceQA answers: finds the letter that an answer names, and the choice that the letter stands for.

Nothing is guessed. The original drew a random choice if it found no letter, so its figures changed from run to run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava.errors import DataError
from llava.eval.data.records import Joined, locate, read_answers, some
from llava.eval.science_qa.dataset import Problem, ScienceQA, ScienceQaSelection, problems_of
from llava.files.json_files import json_type, read_json, read_text, without_garbage_collection

NO_CHOICE = -1
"""Index of the choice for an answer that names none."""
FAILED = "FAILED"
"""What result files contain instead of a letter or an answer that is missing."""
_SENTENCE = re.compile(r"The answer is ([A-Z]).")


def parse_letter(text: str, options: Sequence[str]) -> str | None:
    """Returns the letter that an answer names, or None.

    This is the rule of the published figures: the text is a letter, or it begins with a letter, a full stop and a
    space, or it says `The answer is X.` exactly once.
    """
    if text in options:
        return text
    if len(text) >= 3 and text[0] in options and text[1:3] == ". ":
        return text[0]
    letters = _SENTENCE.findall(text)
    return letters[0] if len(letters) == 1 else None


def choice_of(letter: str | None, options: Sequence[str], num_choices: int) -> int:
    """Returns the index of the choice that a letter names, or NO_CHOICE."""
    return options.index(letter) if letter is not None and letter in options[:num_choices] else NO_CHOICE


@dataclass(frozen=True)
class ScienceQaAnswers:
    """The answers in one file."""

    path: Path
    texts: dict[str, str]
    """The answer to each problem, by id."""
    prompts: dict[str, str]
    """What was asked, by id, as far as the file says."""
    duplicates: list[str]
    """Ids of problems that are answered more than once. The last answer counts."""


def load_answers(path: str | Path) -> ScienceQaAnswers:
    """Reads answers: JSON Lines from `model_vqa_science`, or the `outputs` of a result file.

    Raises:
        DataError: the file is neither, contains no answers, or has an answer without id or text. The message names
            file, line and id.
    """
    path = locate(path, remedy="Give the answers that model_vqa_science wrote.")
    if _is_result_file(path):
        return _from_result_file(path)
    return _from_lines(read_answers(path))


def _is_result_file(path: Path) -> bool:
    # A line of answers is a whole object. A result file is one object over many lines, or has no question_id.
    first, _, _ = read_text(path).lstrip().partition("\n")
    return first.rstrip() == "{" or (first.startswith("{") and '"outputs"' in first and '"question_id"' not in first)


def _from_lines(lines: Joined) -> ScienceQaAnswers:
    texts = {identity: lines.text(identity, "text") for identity in lines.lines}
    prompts = {
        identity: line.record["prompt"]
        for identity, line in lines.lines.items()
        if isinstance(line.record.get("prompt"), str)
    }
    return ScienceQaAnswers(lines.path, texts, prompts, lines.duplicates)


def _from_result_file(path: Path) -> ScienceQaAnswers:
    content = read_json(path)
    outputs = content.get("outputs") if isinstance(content, dict) else None
    if not isinstance(outputs, dict):
        raise DataError(f"{path}: neither JSON Lines nor a result file, which has an object 'outputs'.")
    if not outputs:
        raise DataError(f"{path}: its 'outputs' are empty, so it contains no answers.")
    for identity, text in outputs.items():
        if not isinstance(text, str):
            raise DataError(f"{path}: output of {identity} is a JSON {json_type(text)}, expected a string.")
    return ScienceQaAnswers(path, outputs, {}, [])


@dataclass(frozen=True, slots=True)
class Mark:
    """The answer to one problem, and what it was understood as."""

    problem: Problem
    text: str | None
    """The answer; None if it is missing."""
    letter: str | None
    """The letter that the answer names, which need not stand for a choice; None if it names none."""
    choice: int
    """Index of the choice that the letter stands for, or NO_CHOICE."""

    @property
    def is_correct(self) -> bool:
        return self.choice == self.problem.answer


@dataclass(frozen=True)
class Marks:
    """The marked problems of a split, and what was odd about the answers."""

    marks: list[Mark]
    answers: ScienceQaAnswers
    unknown: list[str]
    """Ids of answers that belong to no problem of the split."""

    @property
    def oddities(self) -> dict[str, list[str]]:
        """Ids of odd answers, by what is odd about them."""
        return {
            "missing": [m.problem.id for m in self.marks if m.text is None],
            "duplicate": self.answers.duplicates,
            "unknown": self.unknown,
            "unparsable": [m.problem.id for m in self.marks if m.text is not None and m.letter is None],
            "not_a_choice": [m.problem.id for m in self.marks if m.letter is not None and m.choice == NO_CHOICE],
        }

    def report(self, without_letter: str = "counted as wrong") -> None:
        """Reports odd answers on standard error.

        Args:
            without_letter: what becomes of answers that are missing or name no letter.
        """
        kinds = {
            "missing": ("problems without an answer", without_letter),
            "duplicate": ("problems answered more than once", "the last answer counts"),
            "unknown": ("answers to no problem of this split", "left out"),
            "unparsable": ("answers that name no letter", without_letter),
            "not_a_choice": ("answers that name a letter without a choice", "counted as wrong"),
        }
        for kind, ids in self.oddities.items():
            if ids:
                what, consequence = kinds[kind]
                print(f"warning: {self.answers.path}: {what}: {len(ids)} ({consequence}): {some(ids)}", file=sys.stderr)


def marks_of(selection: ScienceQaSelection, *files: str) -> list[Marks]:
    """Marks each file of answers on the selected problems.

    Raises:
        DataError: the data set or a file is malformed, or a file belongs to another split.
    """
    with without_garbage_collection():
        data, problems = problems_of(selection)
        return [mark(data, problems, load_answers(file), selection.options) for file in files]


def mark(data: ScienceQA, problems: Sequence[Problem], answers: ScienceQaAnswers, options: Sequence[str]) -> Marks:
    """Marks the answers to the problems of a split.

    Raises:
        DataError: no answer belongs to a problem of the split. The message names the splits that the answers belong to.
    """
    ids = {problem.id for problem in problems}
    unknown = [identity for identity in answers.texts if identity not in ids]
    if len(unknown) == len(answers.texts):
        others = ", ".join(data.splits_of(set(unknown)))
        hint = f"They belong to {others}; choose it with --split." if others else "Do they belong to this data set?"
        raise DataError(f"{answers.path}: none of its {len(unknown)} answers is about a problem of this split. {hint}")
    marks = []
    for problem in problems:
        text = answers.texts.get(problem.id)
        letter = None if text is None else parse_letter(text, options)
        marks.append(Mark(problem, text, letter, choice_of(letter, options, len(problem.choices))))
    return Marks(marks, answers, unknown)
