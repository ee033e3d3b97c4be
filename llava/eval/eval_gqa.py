"""Scores answers to GQA's balanced questions: an answer is correct if it equals the expected one, word for word.

Takes the answers of the model (JSON Lines), which it normalises as `llava eval submit-gqa` does, or the predictions
that `llava eval submit-gqa` wrote. Reports the accuracy of all questions, of binary and of open questions, and of every
structural and semantic type. Consistency, validity, plausibility and distribution need GQA's scene graphs and choices:
use GQA's own evaluation for them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava.command_line import run
from llava.errors import DataError
from llava.eval.convert_gqa import prediction
from llava.eval.data.records import annotation_texts, locate, read_predictions
from llava.eval.scoring.answers import answers_to
from llava.eval.scoring.estimates import Estimate, Part, ratio
from llava.eval.scoring.marks import MarkedAnswer
from llava.eval.scoring.scorer import FileFlag, Scorer, ScorerInput
from llava.files.json_files import read_json


@dataclass(frozen=True, slots=True)
class GqaQuestion:
    """One balanced question."""

    id: str
    """The id."""
    text: str
    """Text of the question."""
    answer: str
    """The correct answer."""
    image: str | None
    """Id of the image, if the file has it."""
    structural: str
    """Structural type, such as `query` or `verify`."""
    semantic: str
    """Semantic type, such as `attr` or `rel`."""

    @property
    def answer_kind(self) -> str:
        """`binary` if the question can be answered with yes or no or offers two choices, else `open`."""
        return "open" if self.structural == "query" else "binary"


def read(question_file: str, result_file: str) -> list[ScorerInput[GqaQuestion]]:
    """Reads the balanced questions and the answers to them; answers to other questions of GQA are ignored."""
    questions, others = read_questions(question_file)
    found = read_predictions(result_file, key="questionId", field="prediction")
    for identity in others & set(found.lines):
        del found.lines[identity]
    return [ScorerInput(questions, answers_to([one.id for one in questions], found, source=question_file))]


def read_questions(path: str) -> tuple[list[GqaQuestion], set[str]]:
    """Returns the balanced questions, and the ids of the others.

    Raises:
        DataError: the file has another form or no balanced questions, or a question lacks a field.
    """
    content = read_json(locate(path, remedy="Pass GQA's questions, such as testdev_balanced_questions.json."))
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object of questions by id. Is it a question file of GQA?")
    balanced = [identity for identity, record in content.items() if _is_balanced(record)]
    if not balanced:
        raise DataError(f"{path}: holds no balanced questions.")
    return [_question(one, content[one], f"{path}: question {one}") for one in balanced], set(content) - set(balanced)


def _is_balanced(record: Any) -> bool:
    return isinstance(record, Mapping) and bool(record.get("isBalanced", True))


def _question(identity: str, record: Mapping[str, Any], place: str) -> GqaQuestion:
    types = record.get("types")
    types = types if isinstance(types, Mapping) else {}
    image = record.get("imageId")
    text, answer = annotation_texts(record, place, "question", "answer")
    structural, semantic = annotation_texts(types, f"{place}: 'types'", "structural", "semantic")
    return GqaQuestion(identity, text, answer, None if image is None else str(image), structural, semantic)


def mark(question: GqaQuestion, text: str | None) -> MarkedAnswer:
    """Marks the answer to a question."""
    predicted = None if text is None else prediction(text)
    return MarkedAnswer(
        question_id=question.id,
        text=text,
        score=float(predicted == question.answer),
        parsed=predicted,
        target=question.answer,
        question=question.text,
        image=question.image,
        categories=(question.answer_kind, question.structural, question.semantic),
    )


def figures(questions: Sequence[GqaQuestion], marks: Sequence[MarkedAnswer]) -> list[Estimate]:
    """Returns the accuracy of all questions, and by kind of answer, structural type and semantic type, in percent."""
    pairs = list(zip(questions, marks, strict=True))
    estimates = [_accuracy("accuracy", marks)]
    for field, label in (("answer_kind", ""), ("structural", "structural: "), ("semantic", "semantic: ")):
        for value in sorted({getattr(one, field) for one in questions}):
            chosen = [marked for one, marked in pairs if getattr(one, field) == value]
            estimates.append(_accuracy(label + value, chosen))
    return estimates


def _accuracy(name: str, marks: Sequence[MarkedAnswer]) -> Estimate:
    return ratio(name, [Part(one.score or 0.0, group=one.image) for one in marks])


SCORER = Scorer(
    "GQA",
    flags=(
        FileFlag(("--question-file",), "Questions of GQA, such as testdev_balanced_questions.json."),
        FileFlag(("--result-file",), "Answers of the model (JSON Lines), or predictions (JSON list)."),
    ),
    read=read,
    mark=mark,
    figures=figures,
)
add_arguments, main = SCORER.add_arguments, SCORER.main

if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
