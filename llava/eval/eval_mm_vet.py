"""Sums up the grades that MM-Vet's judge gave: by capability, by combination of capabilities, and in all.

The judge is a language model that the benchmark's own notebook or server asks; it gives every answer a score from 0 to
1, several times over if so asked. This reads its grades and the benchmark's file, and needs no model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava.command_line import run
from llava.errors import DataError
from llava.eval.data.records import locate
from llava.eval.scoring.answers import Answers, Result, add_output, tell, text_of
from llava.eval.scoring.estimates import Estimate, Part, ratio
from llava.eval.scoring.marks import MarkedAnswer
from llava.files.json_files import read_json

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
"""Recognition, reading, knowledge, generation of language, spatial sense, arithmetic."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotation-file", required=True, metavar="FILE", help="mm-vet.json")
    parser.add_argument(
        "--grade-file",
        required=True,
        metavar="FILE",
        help="the judge's grades: an object of objects with `score`, a list with one number a run",
    )
    parser.add_argument("--answers-file", metavar="FILE", help="the graded answers, for the marks of --output")
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    questions = read_questions(args.annotation_file)
    grades = read_grades(args.grade_file)
    known = {one.id for one in questions}
    unknown = [identity for identity in grades if identity not in known]
    if len(unknown) == len(grades):
        raise DataError(
            f"{args.grade_file}: none of its {len(grades)} grades is of a question of {args.annotation_file}."
        )
    texts = _object(args.answers_file, "answers") if args.answers_file else {}
    missing = [one.id for one in questions if one.id not in grades]
    answers = Answers(locate(args.grade_file), {}, missing, [], unknown)
    marks = [mark(one, grades.get(one.id), texts.get(one.id)) for one in questions]
    runs = {len(scores) for scores in grades.values()}
    result = Result("MM-Vet", answers, marks, figures(questions, grades), {"runs_of_the_judge": max(runs)})
    tell(result, args.output, missing="left out of the figures")
    return 0


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    text: str
    answer: str
    image: str
    capabilities: tuple[str, ...]

    @property
    def combination(self) -> str:
        """Its capabilities in one word, in the benchmark's order."""
        return "_".join(sorted(self.capabilities, key=_order))


def _order(capability: str) -> tuple[int, str]:
    return (CAPABILITIES.index(capability) if capability in CAPABILITIES else len(CAPABILITIES), capability)


def read_questions(path: str) -> list[Question]:
    """The benchmark's questions.

    Raises:
        DataError: another kind of file, or a question without a field.
    """
    questions = []
    for identity, record in _object(path, "questions").items():
        place = f"{path}: {identity}"
        if not isinstance(record, Mapping):
            raise DataError(f"{place}: is no object.")
        capabilities = record.get("capability")
        if not isinstance(capabilities, list) or not capabilities:
            raise DataError(f"{place}: 'capability' must be a list with something in it.")
        text, answer, image = (text_of(record, name, place) for name in ("question", "answer", "imagename"))
        questions.append(Question(identity, text, answer, image, tuple(map(str, capabilities))))
    return questions


def read_grades(path: str) -> dict[str, list[float]]:
    """The judge's scores by question, one a run.

    Raises:
        DataError: another kind of file, no score, or one that is no number from 0 to 1.
    """
    grades = {}
    for identity, record in _object(path, "grades").items():
        scores = record.get("score") if isinstance(record, Mapping) else record
        scores = scores if isinstance(scores, list) else [scores]
        if not scores or not all(_is_score(score) for score in scores):
            raise DataError(f"{path}: {identity}: the score is {scores!r}, expected numbers from 0 to 1, one a run.")
        grades[identity] = [float(score) for score in scores]
    return grades


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _object(path: str, what: str) -> dict[str, Any]:
    content = read_json(locate(path, remedy=f"Give the benchmark's {what}."))
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: is not a JSON object of {what} by id.")
    return content


def mark(question: Question, scores: list[float] | None, text: Any) -> MarkedAnswer:
    """The mean of the judge's scores for one answer."""
    score = None if scores is None else sum(scores) / len(scores)
    return MarkedAnswer(
        question_id=question.id,
        text=text if isinstance(text, str) else None if scores is None else "",
        score=score,
        parsed=None if score is None else f"{score:g}",
        target=question.answer,
        question=question.text,
        image=question.image,
        categories=question.capabilities,
    )


def figures(questions: Sequence[Question], grades: Mapping[str, list[float]]) -> list[Estimate]:
    """Mean scores in percent: of each capability, of all, and of each combination, the most frequent first."""
    graded = [(one, sum(grades[one.id]) / len(grades[one.id])) for one in questions if one.id in grades]

    def of(name: str, chosen: list[tuple[Question, float]]) -> Estimate:
        return ratio(name, [Part(score, group=one.image) for one, score in chosen])

    used = sorted({capability for one, _ in graded for capability in one.capabilities}, key=_order)
    estimates = [of(name, [pair for pair in graded if name in pair[0].capabilities]) for name in used]
    estimates.append(of("total", graded))
    combinations = sorted({one.combination for one, _ in graded if len(one.capabilities) > 1})
    parts = {name: [pair for pair in graded if pair[0].combination == name] for name in combinations}
    return estimates + [of(name, parts[name]) for name in sorted(parts, key=lambda name: (-len(parts[name]), name))]


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
