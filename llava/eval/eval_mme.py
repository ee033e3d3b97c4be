"""Scores answers to MME, which asks two questions about each image: one to be answered with yes and one with no.

The rule is the benchmark's own. An answer says yes or no if the word occurs in its first four letters, ignoring case.
The score of a subtask is its accuracy plus the share of images with both answers correct, each in percent, so at most
200. Perception is the sum of ten subtasks, cognition of four. A missing answer, or one that says neither, is wrong.

Pass the answers and the benchmark's folder (--result-file, --annotation-dir), or the text files of the benchmark's own
tool (--results-dir), which --answers-dir writes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llava.command_line import run
from llava.errors import DataError, InvalidRequest
from llava.eval.data.records import Joined, annotation_texts, compound_id, joined, locate
from llava.eval.scoring.answers import BenchmarkAnswers, answers_to
from llava.eval.scoring.estimates import Estimate, Part, ratio, total
from llava.eval.scoring.marks import MarkedAnswer
from llava.eval.scoring.scorer import Export, FileFlag, Scorer, ScorerInput
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
_REMEDY = "Pass the folder of the benchmark: MME_Benchmark_release_version."


@dataclass(frozen=True, slots=True)
class MmeQuestion:
    """One question about an image."""

    subtask: str
    """Name of the subtask."""
    image: str
    """Name of the image, without its extension."""
    text: str
    """Text of the question."""
    truth: str
    """The correct answer: yes or no."""

    @property
    def id(self) -> str:
        """The id that answers are matched by: image and text."""
        return compound_id(f"{self.subtask}/{self.image}", bare(self.text))


def bare(question: str) -> str:
    """Returns a question without its instructions on how to answer, and with single spaces."""
    for instruction in _INSTRUCTIONS:
        question = question.replace(instruction, " ")
    return " ".join(question.split())


def read(
    annotation_dir: str | None, result_file: str | None, results_dir: str | None
) -> list[ScorerInput[MmeQuestion]]:
    """Reads questions and answers from either source.

    Raises:
        InvalidRequest: not exactly one source is given.
        DataError: a file has another form, or no answer belongs to a question.
    """
    if results_dir and not result_file and not annotation_dir:
        questions, found = read_tool_files(locate(results_dir))
        source = results_dir
    elif result_file and annotation_dir and not results_dir:
        questions = read_annotations(locate(annotation_dir, remedy=_REMEDY))
        found = read_results(locate(result_file))
        source = annotation_dir
    else:
        raise InvalidRequest("pass either --result-file and --annotation-dir, or --results-dir alone.")
    return [ScorerInput(questions, answers_to([one.id for one in questions], found, source=source))]


def read_annotations(folder: Path) -> list[MmeQuestion]:
    """Reads the questions in the benchmark's folder, in the order of subtasks and file names.

    Raises:
        DataError: the folder has no subtask, a line has another form, or an image does not have two questions.
    """
    questions: list[MmeQuestion] = []
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


def _question(subtask: str, file: Path, number: int, line: str) -> MmeQuestion:
    text, _, truth = line.strip().partition("\t")
    return MmeQuestion(subtask, file.stem, text, _truth(truth, f"{file}: line {number}"))


def _truth(value: str, place: str) -> str:
    if value.strip().lower() not in ("yes", "no"):
        raise DataError(f"{place}: the answer is {value.strip()!r}, expected Yes or No after a tab.")
    return value.strip().lower()


def read_results(path: Path) -> Joined:
    """Reads answers by image and text of the question; their `question_id` is `SUBTASK/.../IMAGE.EXTENSION`.

    Raises:
        DataError: a record has no question_id or prompt; names file and line.
    """

    def identity(record: dict[str, Any], place: str) -> str:
        image, prompt = annotation_texts(record, place, "question_id", "prompt")
        path = PurePosixPath(image)
        return MmeQuestion(path.parts[0], path.name.split(".")[0], prompt, "").id

    return joined(read_jsonl(path), path, key=identity)


def read_tool_files(folder: Path) -> tuple[list[MmeQuestion], Joined]:
    """Reads questions and answers from the text files of the benchmark's own tool.

    Raises:
        DataError: the folder has no such file, or a line does not have four fields.
    """
    questions: list[MmeQuestion] = []
    lines: list[Line] = []
    for subtask in (name for names in SUBTASKS.values() for name in names):
        file = folder / f"{subtask}.txt"
        if not file.is_file():
            continue
        for number, line in _lines(file):
            parts = line.split("\t")
            if len(parts) != 4:
                raise DataError(f"{file}: line {number} has {len(parts)} fields separated by tabs, expected 4.")
            truth = _truth(parts[2], f"{file}: line {number}")
            questions.append(MmeQuestion(subtask, parts[0].rpartition(".")[0] or parts[0], parts[1], truth))
            lines.append(Line(number, {"question_id": questions[-1].id, "text": parts[3]}))
    if not questions:
        raise DataError(f"{folder}: has no text file of a subtask, such as existence.txt.")
    return questions, joined(lines, folder, key="question_id")


def write_tool_files(folder: str, questions: Sequence[MmeQuestion], answers: BenchmarkAnswers) -> None:
    """Writes one text file per subtask for the benchmark's own tool.

    Line ends and tabs in an answer become spaces; a missing answer is empty.
    """
    for subtask in dict.fromkeys(one.subtask for one in questions):
        rows = [
            (f"{one.image}.txt", one.text, one.truth.capitalize(), answers.texts.get(one.id, "").translate(_SPACES))
            for one in questions
            if one.subtask == subtask
        ]
        write_text(Path(folder) / f"{subtask}.txt", "".join("\t".join(row) + "\n" for row in rows))


def says(text: str) -> str | None:
    """Returns yes, no, or None for neither, by the benchmark's rule."""
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def mark(question: MmeQuestion, text: str | None) -> MarkedAnswer:
    """Marks the answer to a question."""
    word = None if text is None else says(text)
    return MarkedAnswer(
        question_id=question.id,
        text=text,
        score=float(word == question.truth),
        parsed=word,
        target=question.truth,
        question=bare(question.text),
        image=f"{question.subtask}/{question.image}",
        categories=(question.subtask,),
    )


def figures(questions: Sequence[MmeQuestion], marks: Sequence[MarkedAnswer]) -> list[Estimate]:
    """Returns score (0 to 200), accuracy and accuracy+ (percent) of each subtask, and the sums of the two groups."""
    right: dict[str, dict[str, list[float]]] = {}
    for question, marked in zip(questions, marks, strict=True):
        right.setdefault(question.subtask, {}).setdefault(question.image, []).append(marked.score or 0.0)
    estimates: list[Estimate] = []
    for group, subtasks in SUBTASKS.items():
        scores = []
        for subtask in subtasks:
            if subtask in right:
                score, *accuracies = _subtask_figures(subtask, list(right[subtask].values()))
                scores.append(score)
                estimates += [score, *accuracies]
        estimates.append(total(group, scores))
    return estimates


def _subtask_figures(subtask: str, images: Sequence[Sequence[float]]) -> list[Estimate]:
    """Returns score, accuracy and accuracy+ from the marks of each image's two questions."""
    accuracies = [sum(pair) / len(pair) for pair in images]
    both = [float(all(pair)) for pair in images]
    halves = [(accuracy + plus) / 2 for accuracy, plus in zip(accuracies, both, strict=True)]
    each = [Part(one, group=number) for number, pair in enumerate(images) for one in pair]
    return [
        ratio(subtask, map(Part, halves), scale=200),
        ratio(f"{subtask} accuracy", each),
        ratio(f"{subtask} accuracy+", map(Part, both)),
    ]


SCORER = Scorer(
    "MME",
    flags=(
        FileFlag(
            ("--annotation-dir",),
            "Folder of the benchmark: one folder per subtask, with one text file per image in questions_answers_YN or "
            "directly inside.",
            is_required=False,
            is_folder=True,
        ),
        FileFlag(("--result-file",), "Answers of the model (JSON Lines).", is_required=False),
        FileFlag(
            ("--results-dir", "--results_dir"),
            "Folder that replaces both: one text file per subtask, with lines of image, question, correct answer and "
            "answer.",
            is_required=False,
            is_folder=True,
        ),
    ),
    read=read,
    mark=mark,
    figures=figures,
    export=Export(
        FileFlag(
            ("--answers-dir",),
            "Output folder for such text files, which the benchmark's own tool reads.",
            is_required=False,
            is_folder=True,
        ),
        write_tool_files,
    ),
    unclear_are="answers that say neither yes nor no",
)
add_arguments, main = SCORER.add_arguments, SCORER.main

if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
