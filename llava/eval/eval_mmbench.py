"""Scores answers to the MMBench splits that come with answers: plain accuracy, and circular evaluation.

In circular evaluation a question counts as correct only if it is answered correctly in every rotation of its options,
whether the table holds the rotations or `model_vqa_mmbench --all-rounds` made them. An answer that names no option, or
several, is wrong; the benchmark's own tool asks a language model about such answers, so its figures can be a little
higher.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llava.command_line import run
from llava.errors import DataError
from llava.eval.data.records import Joined, compound_id, read_answers_by
from llava.eval.scoring.answers import answers_to
from llava.eval.scoring.estimates import Estimate, Part, ratio
from llava.eval.scoring.marks import MarkedAnswer
from llava.eval.scoring.mmbench_table import TABLE_FILE, MMBenchQuestion, named_option, questions, read_table
from llava.eval.scoring.scorer import FileFlag, Scorer, ScorerInput


@dataclass(frozen=True, slots=True)
class MMBenchRound:
    """A question with its options in one order."""

    question: MMBenchQuestion
    """The question."""
    number: int
    """Number of the rotation that the model was asked; 0 is the order of the table."""
    letters: tuple[str, ...]
    """Letters of the question's options, in the order in which the model saw them as A, B, and so on."""

    @property
    def id(self) -> str:
        """The id that answers are matched by."""
        return compound_id(self.question.index, self.number)

    @property
    def is_plain(self) -> bool:
        """Whether the options have their original order."""
        return self.number == 0 and self.question.index == self.question.base


def read(annotation_file: str, result_file: str) -> list[ScorerInput[MMBenchRound]]:
    """Reads the table and the answers; each round is scored like a question."""
    found = read_answers_by(result_file, round_id="0")
    rounds = rounds_of(questions(read_table(annotation_file)), found)
    return [ScorerInput(rounds, answers_to([one.id for one in rounds], found, source=annotation_file))]


def rounds_of(asked: Sequence[MMBenchQuestion], found: Joined) -> list[MMBenchRound]:
    """Returns the rounds of all questions: one each, or one for every option if the answers are to rotated options.

    Raises:
        DataError: the letters of an answer are not those of its question.
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
            one = MMBenchRound(question, number, by_round.get(compound_id(question.index, number), turned))
            if sorted(one.letters) != sorted(plain):
                raise DataError(
                    f"{found.place(one.id)}: 'option_char' is {', '.join(one.letters)}, but the question has the "
                    f"options {', '.join(plain)}. Do the files belong together?"
                )
            rounds.append(one)
    return rounds


def mark(one: MMBenchRound, text: str | None) -> MarkedAnswer:
    """Marks the answer in a round."""
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


def figures(rounds: Sequence[MMBenchRound], marks: Sequence[MarkedAnswer]) -> list[Estimate]:
    """Returns plain and circular accuracy in percent, circular accuracy also by category."""
    plain = [Part(marked.score or 0.0) for one, marked in zip(rounds, marks, strict=True) if one.is_plain]
    bases: dict[str, MMBenchQuestion] = {}
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


SCORER = Scorer(
    "MMBench",
    flags=(TABLE_FILE, FileFlag(("--result-file",), "Answers of model_vqa_mmbench (JSON Lines).")),
    read=read,
    mark=mark,
    figures=figures,
    unclear_are="answers that name no option, or several",
)
add_arguments, main = SCORER.add_arguments, SCORER.main

if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
