"""Marks answers to POPE: is an object in an image, yes or no.

The rule of the published figures: of the first sentence, a word `No`, `no` or `not` makes it a no, anything else a yes.
Labels are found by image and question, never by the order of lines. The errors take questions about one image
together. A question without an answer counts as wrong; it is neither a yes nor a no.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava.command_line import run
from llava.errors import DataError
from llava.eval.data.records import Joined, locate, read_answers
from llava.eval.scoring.answers import Result, add_output, answers_to, tell, text_of
from llava.eval.scoring.estimates import Estimate, Part, ratio
from llava.eval.scoring.marks import MarkedAnswer
from llava.files.json_files import read_jsonl

PREFIX = "coco_pope_"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--annotation-dir", required=True, metavar="DIR", help=f"folder of the labels: {PREFIX}CATEGORY.json"
    )
    parser.add_argument(
        "--question-file",
        required=True,
        metavar="FILE",
        help="questions, JSON Lines with question_id, image, text, category",
    )
    parser.add_argument("--result-file", required=True, metavar="FILE", help="answers, JSON Lines")
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    questions = labelled(read_answers(locate(args.question_file)), locate(args.annotation_dir))
    answers = answers_to([one.id for one in questions], read_answers(locate(args.result_file)), of=args.question_file)
    outcomes = [Outcome(one, answers.texts.get(one.id)) for one in questions]
    estimates = []
    for category in dict.fromkeys(one.category for one in questions):
        chosen = [one for one in outcomes if one.question.category == category]
        print(f"Category: {category}, # samples: {sum(one.text is not None for one in chosen)}")
        estimates += told(chosen, prefix=f"{category} ")
        print("====================================")
    result = Result("POPE", answers, [one.as_mark() for one in outcomes], estimates + figures(outcomes))
    tell(
        result,
        args.output,
        understood="answers whose first sentence says neither yes nor no",
        consequence="counted as yes, by the rule",
    )
    return 0


@dataclass(frozen=True, slots=True)
class Question:
    """One question and its label."""

    id: str
    category: str
    image: str
    text: str
    label: str
    """yes or no"""


def says_no(text: str) -> bool:
    """Whether an answer is a no, by the rule of the published figures."""
    return bool({"No", "not", "no"} & set(_first_sentence(text).split(" ")))


def is_clear(text: str) -> bool:
    """Whether an answer says yes or no at all."""
    return says_no(text) or "yes" in _first_sentence(text).lower().split()


def _first_sentence(text: str) -> str:
    return text.partition(".")[0].replace(",", "")


def labelled(questions: Joined, folder: Path) -> list[Question]:
    """The questions with their labels, in the order of the categories' files and then of the question file.

    Raises:
        DataError: no labels, labels in another form, or a question or category without its label.
    """
    files = sorted(folder.glob(f"{PREFIX}*.json")) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder}: holds no {PREFIX}*.json. Give the folder of the benchmark's labels.")
    found = []
    for file in files:
        category = file.stem.removeprefix(PREFIX)
        open_labels = _labels(file)
        for identity, line in questions.lines.items():
            if text_of(line.record, "category", questions.place(identity)) == category:
                found.append(_labelled(questions, identity, category, open_labels, file))
    known = {one.id for one in found}
    if without := [identity for identity in questions.lines if identity not in known]:
        category = questions.lines[without[0]].record["category"]
        raise DataError(f"{questions.place(without[0])}: there is no {folder / f'{PREFIX}{category}.json'}.")
    return found


def _labels(file: Path) -> dict[str, list[tuple[str, str]]]:
    """By image, the questions asked about it and their labels, in order."""
    labels: dict[str, list[tuple[str, str]]] = {}
    for number, record in read_jsonl(file):
        place = f"{file}: line {number}"
        image, text, label = (text_of(record, name, place) for name in ("image", "text", "label"))
        if label not in ("yes", "no"):
            raise DataError(f"{place}: 'label' is {label!r}, expected yes or no.")
        labels.setdefault(image, []).append((text.strip(), label))
    return labels


def _labelled(
    questions: Joined, identity: str, category: str, labels: dict[str, list[tuple[str, str]]], file: Path
) -> Question:
    """Takes the label of a question; one that is asked twice takes the first label that is left."""
    record, place = questions.lines[identity].record, questions.place(identity)
    image, text = (text_of(record, name, place) for name in ("image", "text"))
    left = labels.get(image, [])
    # The question file adds how to answer behind the question itself.
    taken = next((number for number, (asked, _) in enumerate(left) if text.strip().startswith(asked)), None)
    if taken is None:
        raise DataError(f"{place}: {file} has no label for this question about {image}. Do the files belong together?")
    asked, label = left.pop(taken)
    return Question(identity, category, image, asked, label)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question and the answer to it; None where there is none."""

    question: Question
    text: str | None

    @property
    def said(self) -> str | None:
        """yes, no, or None."""
        return None if self.text is None else "no" if says_no(self.text) else "yes"

    @property
    def is_correct(self) -> bool:
        return self.said == self.question.label

    def as_mark(self) -> MarkedAnswer:
        return MarkedAnswer(
            question_id=self.question.id,
            text=self.text,
            score=float(self.is_correct),
            parsed=self.said if self.text is not None and is_clear(self.text) else None,
            target=self.question.label,
            question=self.question.text,
            image=self.question.image,
            categories=(self.question.category,),
        )


def figures(outcomes: Sequence[Outcome], prefix: str = "") -> list[Estimate]:
    """Accuracy, precision, recall, F1 and the share of yes, in percent."""

    def of(name: str, gained: Callable[[Outcome], float], possible: Callable[[Outcome], float]) -> Estimate:
        return ratio(prefix + name, [Part(gained(one), possible(one), one.question.image) for one in outcomes])

    return [
        of("accuracy", lambda one: one.is_correct, lambda one: 1),
        of("precision", _hit, _said_yes),
        of("recall", _hit, _is_yes),
        of("F1", lambda one: 2 * _hit(one), lambda one: _said_yes(one) + _is_yes(one)),
        of("yes ratio", _said_yes, lambda one: one.said is not None),
    ]


def _said_yes(one: Outcome) -> int:
    return one.said == "yes"


def _is_yes(one: Outcome) -> int:
    return one.question.label == "yes"


def _hit(one: Outcome) -> int:
    return _said_yes(one) and _is_yes(one)


def told(chosen: Sequence[Outcome], prefix: str) -> list[Estimate]:
    """Prints a category as the original does; returns its figures."""
    cells = Counter((one.said, one.question.label) for one in chosen)
    print("TP\tFP\tTN\tFN\t")
    print(*(cells[cell] for cell in (("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "yes"))), sep="\t")
    estimates = figures(chosen, prefix)
    accuracy, precision, recall, _, yes = (one.gained / one.possible if one.possible else None for one in estimates)
    f1 = 2 * precision * recall / (precision + recall) if precision and recall else None
    names = ("Accuracy", "Precision", "Recall", "F1 score", "Yes ratio")
    for name, share in zip(names, (accuracy, precision, recall, f1, yes), strict=True):
        print(f"{name}: {'n/a' if share is None else share}")
    print(", ".join("n/a" if share is None else f"{share:.3f}" for share in (f1, accuracy, precision, recall, yes)))
    return estimates


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
