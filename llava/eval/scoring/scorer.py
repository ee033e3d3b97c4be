"""The frame of every benchmark's scorer: flags, marking, printing and the `--output` file.

A benchmark declares a `Scorer`: which files it takes, how to read them, what an answer is worth, and which figures
follow from the marks. The module of its command then exports `SCORER.add_arguments` and `SCORER.main`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from llava.errors import InvalidRequest
from llava.eval.scoring.answers import COUNTED_WRONG, BenchmarkAnswers, warn
from llava.eval.scoring.estimates import Estimate, table
from llava.eval.scoring.marks import MarkedAnswer, MarkSheet, marks_as_json
from llava.files.json_files import write_json


class BenchmarkQuestion(Protocol):
    """A question of a benchmark."""

    @property
    def id(self) -> str:
        """The id that answers are matched by."""


Q = TypeVar("Q", bound=BenchmarkQuestion)


@dataclass(frozen=True, slots=True)
class FileFlag:
    """A flag that names a file or a folder."""

    names: tuple[str, ...]
    """The flag and its other spellings; the first one names the keyword argument of `Scorer.read`."""
    help: str
    """Its help text."""
    is_required: bool = True
    """Whether the command fails without it."""
    is_folder: bool = False
    """Whether it names a folder."""

    @property
    def dest(self) -> str:
        """The name of its value: `result_file` for `--result-file`."""
        return self.names[0].removeprefix("--").replace("-", "_")

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Adds the flag to a parser."""
        metavar = "DIR" if self.is_folder else "FILE"
        parser.add_argument(*self.names, dest=self.dest, required=self.is_required, metavar=metavar, help=self.help)


RESULT_FILE = FileFlag(("--result-file",), "Answers of the model (JSON Lines).")


@dataclass(frozen=True)
class ScorerInput(Generic[Q]):
    """The questions of a benchmark and one model's answers."""

    questions: Sequence[Q]
    """The questions that are scored."""
    answers: BenchmarkAnswers
    """The answers to them."""
    benchmark: str | None = None
    """Name of the benchmark, if it is not the scorer's."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the `--output` file; JSON values."""


@dataclass(frozen=True)
class ScoredRun(Generic[Q]):
    """The answers of a model, marked."""

    benchmark: str
    """Name of the benchmark."""
    questions: Sequence[Q]
    """The questions."""
    answers: BenchmarkAnswers
    """The answers to them."""
    marks: Sequence[MarkedAnswer]
    """One mark for each question, in the same order."""
    estimates: Sequence[Estimate]
    """The figures, in the order in which they are printed."""
    extra: Mapping[str, Any]
    """Further fields of the `--output` file."""

    @property
    def unclear(self) -> list[str]:
        """Ids of answers that could not be interpreted."""
        return [mark.question_id for mark in self.marks if mark.text is not None and mark.parsed is None]

    def as_json(self) -> dict[str, Any]:
        """Returns what `--output` holds: a mark sheet, figures with errors, and the ids of problematic answers."""
        figures = {one.name: one.value for one in self.estimates if one.value is not None}
        sheet = marks_as_json(MarkSheet(self.benchmark, list(self.marks), self.answers.model, figures))
        marks = sheet.pop("marks")
        return {
            **sheet,
            "answers_file": str(self.answers.path),
            "estimates": {one.name: one.as_json() for one in self.estimates},
            "missing": self.answers.missing,
            "duplicate": self.answers.duplicate,
            "unknown": self.answers.unknown,
            "unparsable": self.unclear,
            **self.extra,
            "marks": marks,
        }


@dataclass(frozen=True)
class Export(Generic[Q]):
    """A file or folder that a scorer can write for another program, such as a submission."""

    flag: FileFlag
    """The flag that asks for it."""
    write: Callable[[str, Sequence[Q], BenchmarkAnswers], None]
    """Writes it; called with the flag's value, the questions and the answers."""


@dataclass(frozen=True)
class Scorer(Generic[Q]):
    """The declaration of a benchmark."""

    benchmark: str
    """Name of the benchmark."""
    flags: Sequence[FileFlag]
    """The files it takes."""
    read: Callable[..., list[ScorerInput[Q]]]
    """Reads the files, which are keyword arguments; more than one input if there are answers of several models."""
    mark: Callable[[Q, str | None], MarkedAnswer]
    """Returns what an answer is worth; None is a missing answer."""
    figures: Callable[[Sequence[Q], Sequence[MarkedAnswer]], list[Estimate]]
    """Returns the figures of all questions and their marks."""
    original_report: Callable[[ScoredRun[Q]], str] | None = None
    """Returns what the original's scorer prints; printed before the table."""
    export: Export[Q] | None = None
    """What the scorer can write for another program."""
    missing_become: str = COUNTED_WRONG
    """How questions without an answer are treated, in words."""
    unclear_are: str = "answers that could not be interpreted"
    """What answers without an interpretation are, in words."""
    unclear_become: str = COUNTED_WRONG
    """How they are treated, in words."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the flags of the benchmark, and `--output`."""
        for flag in self.flags:
            flag.add_to(parser)
        if self.export:
            self.export.flag.add_to(parser)
        parser.add_argument(
            "--output",
            metavar="FILE",
            help="Output file for figures with errors, ids of problematic answers and all marks (JSON).",
        )

    def main(self, args: argparse.Namespace) -> int:
        """Scores the answers that the flags name, prints the figures and writes the files that were asked for.

        Raises:
            LlavaError: a file cannot be used, or the flags contradict each other.
        """
        values = vars(args)
        inputs = self.read(**{flag.dest: values[flag.dest] for flag in self.flags})
        output: str | None = values["output"]
        if output and len(inputs) > 1:
            raise InvalidRequest("--output works with one answer file only. Score the files one by one.")
        for one in inputs:
            run = self.score(one)
            self._print(run)
            if output:
                write_json(output, run.as_json())
            if self.export and (target := values[self.export.flag.dest]):
                self.export.write(target, run.questions, run.answers)
        return 0

    def score(self, one: ScorerInput[Q]) -> ScoredRun[Q]:
        """Marks the answers and computes the figures."""
        marks = [self.mark(question, one.answers.texts.get(question.id)) for question in one.questions]
        estimates = self.figures(one.questions, marks)
        return ScoredRun(one.benchmark or self.benchmark, one.questions, one.answers, marks, estimates, one.extra)

    def _print(self, run: ScoredRun[Q]) -> None:
        if self.original_report:
            print(self.original_report(run))
        print(table(run.estimates), flush=True)
        warn(
            run.answers,
            run.unclear,
            missing=self.missing_become,
            unclear_are=self.unclear_are,
            unclear_become=self.unclear_become,
        )
