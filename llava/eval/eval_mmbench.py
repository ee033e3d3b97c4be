"""Marks answers to MMBench's splits with answers: plain accuracy, and circular evaluation.

Circular: a question counts only if it is answered right in every rotation of its options, whether the table holds the
rotations or the generator made them (--all-rounds). An answer that names no option, or several, is wrong; the
benchmark's own tool asks a language model about those, so that its figures can be a little higher.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llava.command_line import run
from llava.errors import DataError
from llava.eval.data.records import Joined
from llava.eval.scoring.answers import Result, add_output, answers_to, compound, read_answers_by, tell
from llava.eval.scoring.estimates import Estimate, Part, ratio
from llava.eval.scoring.marks import MarkedAnswer
from llava.eval.scoring.mmbench_table import Question, add_table, named_option, questions, read_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_table(parser)
    parser.add_argument("--result-file", required=True, metavar="FILE", help="answers of model_vqa_mmbench, JSON Lines")
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    found = read_answers_by(args.result_file, round_id="0")
    rounds = rounds_of(questions(read_table(args.annotation_file)), found)
    answers = answers_to([one.id for one in rounds], found, of=args.annotation_file)
    marks = [mark(one, answers.texts.get(one.id)) for one in rounds]
    result = Result("MMBench", answers, marks, figures(rounds, marks))
    tell(result, args.output, understood="answers that name no option, or several")
    return 0


@dataclass(frozen=True, slots=True)
class Round:
    """One way of asking a question."""

    question: Question
    number: int
    letters: tuple[str, ...]
    """The option that each letter, A and on, stood for."""

    @property
    def id(self) -> str:
        return compound(self.question.index, self.number)

    @property
    def is_plain(self) -> bool:
        """Whether the options stand as the question has them."""
        return self.number == 0 and self.question.index == self.question.base


def rounds_of(asked: Sequence[Question], found: Joined) -> list[Round]:
    """The rounds of all questions: one each, or as many as there are options if the generator rotated them.

    Raises:
        DataError: an answer whose letters are not those of its question.
    """
    by_round: dict[str, tuple[str, ...]] = {}
    rotated = False
    for identity, line in found.lines.items():
        letters = line.record.get("option_char")
        rotated = rotated or line.record.get("round_id", 0) not in (0, "0")
        if isinstance(letters, list):
            by_round[identity] = tuple(map(str, letters))
    rounds = []
    for question in asked:
        plain = tuple(question.options)
        for number in range(len(plain) if rotated else 1):
            turned = plain[number:] + plain[:number]
            one = Round(question, number, by_round.get(compound(question.index, number), turned))
            if sorted(one.letters) != sorted(plain):
                raise DataError(
                    f"{found.place(one.id)}: 'option_char' is {', '.join(one.letters)}, but the question has the "
                    f"options {', '.join(plain)}. Do the files belong together?"
                )
            rounds.append(one)
    return rounds


def mark(one: Round, text: str | None) -> MarkedAnswer:
    """What an answer in a round is worth."""
    shown = dict(zip(one.question.options, (one.question.options[letter] for letter in one.letters), strict=True))
    named = None if text is None else named_option(text, shown)
    meant = None if named is None else one.letters[list(shown).index(named)]
    categories = (one.question.category, one.question.group)
    return MarkedAnswer(
        question_id=one.id,
        text=text,
        score=float(meant == one.question.answer),
        parsed=None if meant is None else f"{meant}. {one.question.options[meant]}",
        target=f"{one.question.answer}. {one.question.options[one.question.answer]}",
        question=one.question.text,
        categories=tuple(name for name in categories if name),
    )


def figures(rounds: Sequence[Round], marks: Sequence[MarkedAnswer]) -> list[Estimate]:
    """Plain and circular accuracy in percent, the latter also of every category."""
    plain = [Part(marked.score or 0.0) for one, marked in zip(rounds, marks, strict=True) if one.is_plain]
    bases: dict[str, Question] = {}
    all_right: dict[str, bool] = {}
    for one, marked in zip(rounds, marks, strict=True):
        bases.setdefault(one.question.base, one.question)
        all_right[one.question.base] = all_right.get(one.question.base, True) and bool(marked.score)

    def circular(name: str, chosen: Iterable[str]) -> Estimate:
        return ratio(name, [Part(float(all_right[base])) for base in chosen])

    estimates = [ratio("accuracy", plain), circular("circular", bases)]
    for field in ("group", "category"):
        for value in sorted({getattr(one, field) for one in bases.values()} - {""}):
            chosen = [base for base, one in bases.items() if getattr(one, field) == value]
            estimates.append(circular(f"circular {value}", chosen))
    return estimates


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
