"""Marks answers to GQA's balanced questions: right if it is the answer, word for word.

Answers are JSON Lines of the generator, brought to the form of `convert_gqa_for_eval`, or the predictions which that
wrote. Accuracy of all, of yes-or-no and of open questions, and of every structural and semantic type. What needs GQA's
scene graphs and lists of choices (consistency, validity, plausibility, distribution) is left to its own evaluation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava.command_line import run
from llava.errors import DataError
from llava.eval.convert_gqa import prediction
from llava.eval.data.records import locate
from llava.eval.scoring.answers import Answers, Result, add_output, answers_to, read_predictions, tell, text_of
from llava.eval.scoring.estimates import Estimate, Part, ratio
from llava.eval.scoring.marks import MarkedAnswer
from llava.files.json_files import read_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--question-file",
        required=True,
        metavar="FILE",
        help="GQA's questions, such as testdev_balanced_questions.json",
    )
    parser.add_argument(
        "--result-file", required=True, metavar="FILE", help="answers, JSON Lines, or predictions, a JSON list"
    )
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    questions, others = read_questions(args.question_file)
    found = read_predictions(args.result_file, key="questionId", field="prediction")
    for identity in others & set(found.lines):
        del found.lines[identity]
    answers = answers_to([one.id for one in questions], found, of=args.question_file)
    marks = [mark(one, answers) for one in questions]
    tell(Result("GQA", answers, marks, figures(questions, marks)), args.output)
    return 0


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    text: str
    answer: str
    image: str | None
    structural: str
    semantic: str

    @property
    def answer_kind(self) -> str:
        """open, or binary: whether the question asks for a thing or for yes, no or one of two."""
        return "open" if self.structural == "query" else "binary"


def read_questions(path: str) -> tuple[list[Question], set[str]]:
    """The balanced questions, and the ids of the others.

    Raises:
        DataError: another kind of file, no balanced question, or one without a field.
    """
    content = read_json(locate(path, remedy="Give GQA's questions, such as testdev_balanced_questions.json."))
    if not isinstance(content, dict):
        raise DataError(f"{path}: is not a JSON object of questions by id. Is it GQA's?")
    balanced = [identity for identity, record in content.items() if _is_balanced(record)]
    if not balanced:
        raise DataError(f"{path}: holds no balanced question.")
    return [_question(one, content[one], f"{path}: question {one}") for one in balanced], set(content) - set(balanced)


def _is_balanced(record: Any) -> bool:
    return isinstance(record, Mapping) and bool(record.get("isBalanced", True))


def _question(identity: str, record: Mapping[str, Any], place: str) -> Question:
    types = record.get("types")
    types = types if isinstance(types, Mapping) else {}
    image = record.get("imageId")
    return Question(
        identity,
        text_of(record, "question", place),
        text_of(record, "answer", place),
        None if image is None else str(image),
        text_of(types, "structural", f"{place}: 'types'"),
        text_of(types, "semantic", f"{place}: 'types'"),
    )


def mark(question: Question, answers: Answers) -> MarkedAnswer:
    """What the answer to a question is worth."""
    text = answers.texts.get(question.id)
    said = None if text is None else prediction(text)
    return MarkedAnswer(
        question_id=question.id,
        text=text,
        score=float(said == question.answer),
        parsed=said,
        target=question.answer,
        question=question.text,
        image=question.image,
        categories=(question.answer_kind, question.structural, question.semantic),
    )


def figures(questions: Sequence[Question], marks: Sequence[MarkedAnswer]) -> list[Estimate]:
    """Accuracy of all, and by kind of answer, structure and meaning, in percent."""
    pairs = list(zip(questions, marks, strict=True))
    estimates = [_of("accuracy", marks)]
    for field, label in (("answer_kind", ""), ("structural", "structural: "), ("semantic", "semantic: ")):
        for value in sorted({getattr(one, field) for one in questions}):
            chosen = [marked for one, marked in pairs if getattr(one, field) == value]
            estimates.append(_of(label + value, chosen))
    return estimates


def _of(name: str, marks: Sequence[MarkedAnswer]) -> Estimate:
    return ratio(name, [Part(one.score or 0.0, group=one.image) for one in marks])


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
