"""Marks answers to MME: two questions an image, one to be answered with yes and one with no.

The benchmark's own rule: an answer says yes or no if it is that word, or has it within its first four letters, capitals
aside. A subtask's score is its accuracy plus the share of images whose two answers are both right, in percent each,
so at most 200; perception is the sum of ten subtasks, cognition of four. An answer that says neither is wrong, and so
is one that is missing.

Give the answers with the benchmark's folder (--result-file, --annotation-dir), or the text files of its own tool
(--results-dir), which --answers-dir writes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llava.command_line import run
from llava.errors import DataError, InvalidRequest
from llava.eval.data.records import Joined, joined, locate
from llava.eval.scoring.answers import Answers, Result, add_output, answers_to, compound, tell, text_of
from llava.eval.scoring.estimates import Estimate, Part, ratio, total
from llava.eval.scoring.marks import MarkedAnswer
from llava.files.json_files import Line, read_jsonl, read_text, write_text

SUBTASKS = {
    "perception": (
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
        "OCR",
    ),
    "cognition": ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}
_INSTRUCTIONS = ("Answer the question using a single word or phrase.", "Please answer yes or no.")
_SPACES = str.maketrans("\t\r\n", "   ")
_REMEDY = "Give the folder of the benchmark: MME_Benchmark_release_version."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--annotation-dir",
        metavar="DIR",
        help="the benchmark: a folder a subtask, with a text file an image (in questions_answers_YN or at its top)",
    )
    parser.add_argument("--result-file", metavar="FILE", help="answers, JSON Lines")
    parser.add_argument(
        "--results-dir",
        "--results_dir",
        metavar="DIR",
        help="in the place of both: a text file a subtask, lines of image, question, truth and answer",
    )
    parser.add_argument(
        "--answers-dir", metavar="DIR", help="where to write such text files, for the benchmark's own tool"
    )
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    if bool(args.results_dir) == bool(args.result_file) or bool(args.result_file) != bool(args.annotation_dir):
        raise InvalidRequest("give --result-file and --annotation-dir, or --results-dir alone.")
    if args.results_dir:
        questions, found = read_tool_files(locate(args.results_dir))
    else:
        questions = read_annotations(locate(args.annotation_dir, remedy=_REMEDY))
        found = read_results(locate(args.result_file))
    answers = answers_to([one.id for one in questions], found, of=args.annotation_dir or args.results_dir)
    if args.answers_dir:
        write_tool_files(Path(args.answers_dir), questions, answers)
    marks = [mark(one, answers.texts.get(one.id)) for one in questions]
    result = Result("MME", answers, marks, figures(questions, marks))
    tell(result, args.output, understood="answers that say neither yes nor no")
    return 0


@dataclass(frozen=True, slots=True)
class Question:
    """One question about an image."""

    subtask: str
    image: str
    """Name of the image, without its ending."""
    text: str
    truth: str
    """yes or no"""

    @property
    def id(self) -> str:
        return compound(f"{self.subtask}/{self.image}", bare(self.text))


def bare(question: str) -> str:
    """A question without what it says about how to answer, and with single spaces."""
    for instruction in _INSTRUCTIONS:
        question = question.replace(instruction, " ")
    return " ".join(question.split())


def read_annotations(folder: Path) -> list[Question]:
    """The questions of the benchmark's folder, in the order of subtasks and file names.

    Raises:
        DataError: no subtask there, a line in another form, or an image with another number of questions than two.
    """
    questions: list[Question] = []
    for subtask in (name for names in SUBTASKS.values() for name in names):
        inner = folder / subtask / "questions_answers_YN"
        for file in sorted((inner if inner.is_dir() else folder / subtask).glob("*.txt")):
            pair = [_question(subtask, file, *numbered) for numbered in _lines(file)]
            if len(pair) != 2:
                raise DataError(f"{file}: has {len(pair)} questions; every image of MME has two.")
            questions += pair
    if not questions:
        raise DataError(f"{folder}: has no subtask of MME with questions in it. {_REMEDY}")
    return questions


def _lines(file: Path) -> Iterable[tuple[int, str]]:
    lines = enumerate(read_text(file).replace("\r\n", "\n").split("\n"), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def _question(subtask: str, file: Path, number: int, line: str) -> Question:
    text, _, truth = line.strip().partition("\t")
    return Question(subtask, file.stem, text, _truth(truth, f"{file}: line {number}"))


def _truth(value: str, place: str) -> str:
    if value.strip().lower() not in ("yes", "no"):
        raise DataError(f"{place}: the answer is {value.strip()!r}, expected Yes or No behind a tabulator.")
    return value.strip().lower()


def read_results(path: Path) -> Joined:
    """Answers by the id of their question; their own `question_id` is `SUBTASK/.../IMAGE.ENDING`, for both questions.

    Raises:
        DataError: a record without question_id or prompt; names file and line.
    """

    def identity(record: dict[str, Any], place: str) -> str:
        name = PurePosixPath(text_of(record, "question_id", place))
        return Question(name.parts[0], name.name.split(".")[0], text_of(record, "prompt", place), "").id

    return joined(read_jsonl(path), path, key=identity)


def read_tool_files(folder: Path) -> tuple[list[Question], Joined]:
    """Questions and answers of the text files that the benchmark's own tool reads.

    Raises:
        DataError: no such file, a line without its four parts, or an odd number of lines.
    """
    questions: list[Question] = []
    lines: list[Line] = []
    for subtask in (name for names in SUBTASKS.values() for name in names):
        file = folder / f"{subtask}.txt"
        if not file.is_file():
            continue
        for number, line in _lines(file):
            parts = line.split("\t")
            if len(parts) != 4:
                raise DataError(f"{file}: line {number} has {len(parts)} parts between tabulators, expected 4.")
            truth = _truth(parts[2], f"{file}: line {number}")
            questions.append(Question(subtask, parts[0].rpartition(".")[0] or parts[0], parts[1], truth))
            lines.append(Line(number, {"question_id": questions[-1].id, "text": parts[3]}))
    if not questions:
        raise DataError(f"{folder}: holds no text file of a subtask, such as existence.txt.")
    return questions, joined(lines, folder, key="question_id")


def write_tool_files(folder: Path, questions: Sequence[Question], answers: Answers) -> None:
    """Writes a text file a subtask; line ends and tabulators of an answer become spaces, a missing one is empty."""
    for subtask in dict.fromkeys(one.subtask for one in questions):
        rows = [
            (f"{one.image}.txt", one.text, one.truth.capitalize(), answers.texts.get(one.id, "").translate(_SPACES))
            for one in questions
            if one.subtask == subtask
        ]
        write_text(folder / f"{subtask}.txt", "".join("\t".join(row) + "\n" for row in rows))


def says(text: str) -> str | None:
    """yes, no, or None for neither, by the benchmark's rule."""
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def mark(question: Question, text: str | None) -> MarkedAnswer:
    """What an answer to a question is worth."""
    said = None if text is None else says(text)
    return MarkedAnswer(
        question_id=question.id,
        text=text,
        score=float(said == question.truth),
        parsed=said,
        target=question.truth,
        question=bare(question.text),
        image=f"{question.subtask}/{question.image}",
        categories=(question.subtask,),
    )


def figures(questions: Sequence[Question], marks: Sequence[MarkedAnswer]) -> list[Estimate]:
    """Each subtask's score (0 to 200) with its accuracy and accuracy+ (percent), and the sums of the two groups."""
    right: dict[str, dict[str, list[float]]] = {}
    for question, marked in zip(questions, marks, strict=True):
        right.setdefault(question.subtask, {}).setdefault(question.image, []).append(marked.score or 0.0)
    estimates: list[Estimate] = []
    for group, subtasks in SUBTASKS.items():
        scores = []
        for subtask in subtasks:
            images = list(right.get(subtask, {}).values())
            if not images:
                continue
            accuracies = [sum(pair) / len(pair) for pair in images]
            both = [float(all(pair)) for pair in images]
            halves = [(accuracy + plus) / 2 for accuracy, plus in zip(accuracies, both, strict=True)]
            scores.append(ratio(subtask, map(Part, halves), scale=200))
            each = [Part(one, group=number) for number, pair in enumerate(images) for one in pair]
            estimates += [
                scores[-1],
                ratio(f"{subtask} accuracy", each),
                ratio(f"{subtask} accuracy+", map(Part, both)),
            ]
        estimates.append(total(group, scores))
    return estimates


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
