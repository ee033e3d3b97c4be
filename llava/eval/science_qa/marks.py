"""Marks ScienceQA answers: from a text to a letter to a choice, right or wrong.

Nothing is guessed: the original drew a random choice where it found no letter, so its figures moved from run to run.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava.errors import DataError
from llava.eval.data.records import Joined, locate, read_answers, some
from llava.eval.science_qa.dataset import Problem, ScienceQA, problems_of
from llava.files.json_files import json_type, read_json, read_text, without_garbage_collection

NO_CHOICE = -1
"""In the place of an index where an answer names no choice."""
FAILED = "FAILED"
"""What result files hold in the place of a letter, or of an answer that is missing."""
_SENTENCE = re.compile(r"The answer is ([A-Z]).")


def parse_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter that an answer names, or None.

    By the rule of the published figures: the text is one letter; or begins with one, a full stop and a space; or says
    `The answer is X.` exactly once.
    """
    if text in options:
        return text
    if len(text) >= 3 and text[0] in options and text[1:3] == ". ":
        return text[0]
    letters = _SENTENCE.findall(text)
    return letters[0] if len(letters) == 1 else None


def choice_of(letter: str | None, options: Sequence[str], num_choices: int) -> int:
    """Index of the choice that a letter names, or NO_CHOICE."""
    return options.index(letter) if letter is not None and letter in options[:num_choices] else NO_CHOICE


@dataclass(frozen=True)
class Answers:
    """The answers of a file, by problem."""

    path: Path
    texts: dict[str, str]
    prompts: dict[str, str]
    """What was asked, as far as the file says so."""
    duplicates: list[str]
    """Problems that are answered more than once; the last answer counts."""


def load_answers(path: str | Path) -> Answers:
    """Reads answers: JSON Lines from `model_vqa_science`, or a result file, whose `outputs` are answers too.

    Raises:
        DataError: neither of them, no answers, or an answer without id or text; names file, line and id.
    """
    path = locate(path, remedy="Give the answers that model_vqa_science wrote.")
    if _is_result_file(path):
        return _from_result_file(path)
    return _from_lines(read_answers(path))


def _is_result_file(path: Path) -> bool:
    # A line of answers is a whole object; a result file is one object over many lines, or holds no question_id.
    first, _, _ = read_text(path).lstrip().partition("\n")
    return first.rstrip() == "{" or (first.startswith("{") and '"outputs"' in first and '"question_id"' not in first)


def _from_lines(lines: Joined) -> Answers:
    texts = {identity: lines.text(identity, "text") for identity in lines.lines}
    prompts = {
        identity: line.record["prompt"]
        for identity, line in lines.lines.items()
        if isinstance(line.record.get("prompt"), str)
    }
    return Answers(lines.path, texts, prompts, lines.duplicates)


def _from_result_file(path: Path) -> Answers:
    content = read_json(path)
    outputs = content.get("outputs") if isinstance(content, dict) else None
    if not isinstance(outputs, dict):
        raise DataError(f"{path}: neither JSON Lines nor a result file (it has no object 'outputs').")
    if not outputs:
        raise DataError(f"{path}: its 'outputs' are empty, so there are no answers in it.")
    for identity, text in outputs.items():
        if not isinstance(text, str):
            raise DataError(f"{path}: output of {identity} is a JSON {json_type(text)}, expected a string.")
    return Answers(path, outputs, {}, [])


@dataclass(frozen=True, slots=True)
class Mark:
    """One problem and what an answer to it is worth."""

    problem: Problem
    text: str | None
    """The answer; None where there is none."""
    letter: str | None
    """The letter that it names, which need not be one of the choices."""
    choice: int
    """Index of the choice, or NO_CHOICE."""

    @property
    def is_correct(self) -> bool:
        return self.choice == self.problem.answer


@dataclass(frozen=True)
class Marks:
    """All problems of a split, marked, and what was odd about the answers."""

    marks: list[Mark]
    answers: Answers
    unknown: list[str]
    """Ids of answers that belong to no problem of the split."""

    @property
    def oddities(self) -> dict[str, list[str]]:
        """Ids by what is odd about them."""
        return {
            "missing": [m.problem.id for m in self.marks if m.text is None],
            "duplicate": self.answers.duplicates,
            "unknown": self.unknown,
            "unparsable": [m.problem.id for m in self.marks if m.text is not None and m.letter is None],
            "not_a_choice": [m.problem.id for m in self.marks if m.letter is not None and m.choice == NO_CHOICE],
        }

    def report(self, without_letter: str = "counted as wrong") -> None:
        """Says on standard error what was odd, and what becomes of answers that are missing or name no letter."""
        said = {
            "missing": ("problems without an answer", without_letter),
            "duplicate": ("problems answered more than once", "the last answer counts"),
            "unknown": ("answers to no problem of this split", "left out"),
            "unparsable": ("answers that name no letter", without_letter),
            "not_a_choice": ("answers that name a letter without a choice", "counted as wrong"),
        }
        for kind, ids in self.oddities.items():
            if ids:
                what, consequence = said[kind]
                print(f"warning: {self.answers.path}: {what}: {len(ids)} ({consequence}): {some(ids)}", file=sys.stderr)


def marks_of(args: argparse.Namespace, *files: str) -> list[Marks]:
    """The marks of each file of answers, on the problems that the arguments name (`science_qa.add_arguments`).

    Raises:
        DataError: the data set or a file is not what it should be, or a file belongs to another split.
        InvalidRequest: --options make no sense.
    """
    with without_garbage_collection():
        data, problems = problems_of(args)
        return [mark(data, problems, load_answers(file), args.options) for file in files]


def mark(data: ScienceQA, problems: Sequence[Problem], answers: Answers, options: Sequence[str]) -> Marks:
    """Marks the answers to the problems of a split.

    Raises:
        DataError: not one answer belongs to them; names the splits to which they belong.
    """
    ids = {problem.id for problem in problems}
    unknown = [identity for identity in answers.texts if identity not in ids]
    if len(unknown) == len(answers.texts):
        others = ", ".join(data.splits_of(set(unknown)))
        hint = f"They belong to {others}: give --split." if others else "Do they belong to this data set?"
        raise DataError(f"{answers.path}: none of its {len(unknown)} answers is about a problem of this split. {hint}")
    marks = []
    for problem in problems:
        text = answers.texts.get(problem.id)
        letter = None if text is None else parse_letter(text, options)
        marks.append(Mark(problem, text, letter, choice_of(letter, options, len(problem.choices))))
    return Marks(marks, answers, unknown)
