"""Scores answers to POPE: is an object in an image, yes or no.

The rule is that of the published figures: an answer whose first sentence contains the word `No`, `no` or `not` is a no,
any other answer is a yes. Labels are matched by image and question, never by the order of lines. The errors treat
questions about one image as related. A question without an answer counts as wrong, and as neither yes nor no.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava.command_line import run
from llava.errors import DataError
from llava.eval.data.records import Joined, annotation_texts, locate, read_answers, text_field
from llava.eval.scoring.answers import answers_to
from llava.eval.scoring.estimates import Estimate, Part, ratio
from llava.eval.scoring.marks import MarkedAnswer
from llava.eval.scoring.scorer import RESULT_FILE, FileFlag, ScoredRun, Scorer, ScorerInput
from llava.files.json_files import read_jsonl

PREFIX = "coco_pope_"


@dataclass(frozen=True, slots=True)
class PopeQuestion:
    """One question and its label."""

    id: str
    """The id in the question file."""
    category: str
    """How the object was chosen: random, popular or adversarial."""
    image: str
    """Name of the image."""
    text: str
    """Text of the question."""
    label: str
    """The correct answer: yes or no."""


def says_no(text: str) -> bool:
    """Returns whether an answer is a no, by the rule of the published figures."""
    return bool({"No", "not", "no"} & set(_first_sentence(text).split(" ")))


def is_clear(text: str) -> bool:
    """Returns whether an answer says yes or no at all."""
    return says_no(text) or "yes" in _first_sentence(text).lower().split()


def _first_sentence(text: str) -> str:
    return text.partition(".")[0].replace(",", "")


def _word(text: str | None) -> str | None:
    """Returns yes or no, or None for a missing answer."""
    return None if text is None else "no" if says_no(text) else "yes"


def read(annotation_dir: str, question_file: str, result_file: str) -> list[ScorerInput[PopeQuestion]]:
    """Reads the questions, their labels and the answers."""
    questions = labelled(read_answers(locate(question_file)), locate(annotation_dir))
    found = read_answers(locate(result_file))
    return [ScorerInput(questions, answers_to([one.id for one in questions], found, source=question_file))]


def labelled(questions: Joined, folder: Path) -> list[PopeQuestion]:
    """Returns the questions with their labels, in the order of the category files and then of the question file.

    Raises:
        DataError: there are no labels, they have another form, or a question or category has no label.
    """
    files = sorted(folder.glob(f"{PREFIX}*.json")) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder}: has no {PREFIX}*.json. Pass the folder of the benchmark's labels.")
    found = []
    for file in files:
        category = file.stem.removeprefix(PREFIX)
        unused = _labels(file)
        for identity, line in questions.lines.items():
            if text_field(line.record, "category", questions.place(identity), allow_number=True) == category:
                found.append(_labelled(questions, identity, category, unused, file))
    known = {one.id for one in found}
    if without := [identity for identity in questions.lines if identity not in known]:
        category = questions.lines[without[0]].record["category"]
        raise DataError(f"{questions.place(without[0])}: {folder / f'{PREFIX}{category}.json'} does not exist.")
    return found


def _labels(file: Path) -> dict[str, list[tuple[str, str]]]:
    """Returns for each image the questions about it and their labels, in order."""
    labels: dict[str, list[tuple[str, str]]] = {}
    for number, record in read_jsonl(file):
        place = f"{file}: line {number}"
        image, text, label = annotation_texts(record, place, "image", "text", "label")
        if label not in ("yes", "no"):
            raise DataError(f"{place}: 'label' is {label!r}, expected yes or no.")
        labels.setdefault(image, []).append((text.strip(), label))
    return labels


def _labelled(
    questions: Joined, identity: str, category: str, unused: dict[str, list[tuple[str, str]]], file: Path
) -> PopeQuestion:
    """Takes the label of a question; if it is asked twice, each takes the first label that is not used yet."""
    record, place = questions.lines[identity].record, questions.place(identity)
    image, text = annotation_texts(record, place, "image", "text")
    left = unused.get(image, [])
    # The question file appends instructions to the question.
    taken = next((number for number, (asked, _) in enumerate(left) if text.strip().startswith(asked)), None)
    if taken is None:
        raise DataError(f"{place}: {file} has no label for this question about {image}. Do the files belong together?")
    asked, label = left.pop(taken)
    return PopeQuestion(identity, category, image, asked, label)


def mark(question: PopeQuestion, text: str | None) -> MarkedAnswer:
    """Marks the answer to a question."""
    word = _word(text)
    return MarkedAnswer(
        question_id=question.id,
        text=text,
        score=float(word == question.label),
        parsed=word if text is not None and is_clear(text) else None,
        target=question.label,
        question=question.text,
        image=question.image,
        categories=(question.category,),
    )


@dataclass(frozen=True, slots=True)
class _Verdict:
    """An answer beside the label of its question."""

    image: str
    category: str
    label: str
    word: str | None
    """yes, no, or None for a missing answer."""

    @property
    def is_answered(self) -> bool:
        return self.word is not None

    @property
    def is_correct(self) -> bool:
        return self.word == self.label

    @property
    def says_yes(self) -> bool:
        return self.word == "yes"

    @property
    def should_be_yes(self) -> bool:
        return self.label == "yes"

    @property
    def is_hit(self) -> bool:
        return self.says_yes and self.should_be_yes


def _by_category(questions: Sequence[PopeQuestion], marks: Sequence[MarkedAnswer]) -> dict[str, list[_Verdict]]:
    verdicts: dict[str, list[_Verdict]] = {}
    for one, marked in zip(questions, marks, strict=True):
        verdict = _Verdict(one.image, one.category, one.label, _word(marked.text))
        verdicts.setdefault(one.category, []).append(verdict)
    return verdicts


def figures(questions: Sequence[PopeQuestion], marks: Sequence[MarkedAnswer]) -> list[Estimate]:
    """Returns accuracy, precision, recall, F1 and the share of yes, in percent: of each category, then of all."""
    verdicts = _by_category(questions, marks)
    estimates = [one for name, chosen in verdicts.items() for one in _five_figures(chosen, prefix=f"{name} ")]
    return estimates + _five_figures([one for chosen in verdicts.values() for one in chosen])


def _five_figures(verdicts: Sequence[_Verdict], prefix: str = "") -> list[Estimate]:
    def figure(name: str, gained: Callable[[_Verdict], float], possible: Callable[[_Verdict], float]) -> Estimate:
        return ratio(prefix + name, [Part(gained(one), possible(one), one.image) for one in verdicts])

    return [
        figure("accuracy", lambda one: one.is_correct, lambda one: 1),
        figure("precision", lambda one: one.is_hit, lambda one: one.says_yes),
        figure("recall", lambda one: one.is_hit, lambda one: one.should_be_yes),
        figure("F1", lambda one: 2 * one.is_hit, lambda one: one.says_yes + one.should_be_yes),
        figure("yes ratio", lambda one: one.says_yes, lambda one: one.is_answered),
    ]


def original_report(scored: ScoredRun[PopeQuestion]) -> str:
    """Returns what the original prints for each category."""
    return "\n".join(
        line
        for name, verdicts in _by_category(scored.questions, scored.marks).items()
        for line in _category_lines(name, verdicts)
    )


def _category_lines(name: str, verdicts: Sequence[_Verdict]) -> Iterable[str]:
    cells = Counter((one.word, one.label) for one in verdicts)
    shares = [one.gained / one.possible if one.possible else None for one in _five_figures(verdicts)]
    accuracy, precision, recall, _, yes = shares
    # From precision and recall, as the original computes it, so that every digit agrees.
    f1 = 2 * precision * recall / (precision + recall) if precision and recall else None
    yield f"Category: {name}, # samples: {sum(one.is_answered for one in verdicts)}"
    yield "TP\tFP\tTN\tFN\t"
    yield "\t".join(str(cells[cell]) for cell in (("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "yes")))
    names = ("Accuracy", "Precision", "Recall", "F1 score", "Yes ratio")
    for label, share in zip(names, (accuracy, precision, recall, f1, yes), strict=True):
        yield f"{label}: {'n/a' if share is None else share}"
    yield ", ".join("n/a" if share is None else f"{share:.3f}" for share in (f1, accuracy, precision, recall, yes))
    yield "===================================="


SCORER = Scorer(
    "POPE",
    flags=(
        FileFlag(("--annotation-dir",), f"Folder of the labels ({PREFIX}CATEGORY.json).", is_folder=True),
        FileFlag(("--question-file",), "Questions (JSON Lines with question_id, image, text and category)."),
        RESULT_FILE,
    ),
    read=read,
    mark=mark,
    figures=figures,
    original_report=original_report,
    unclear_are="answers whose first sentence says neither yes nor no",
    unclear_become="counted as yes, by the rule",
)
add_arguments, main = SCORER.add_arguments, SCORER.main

if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
