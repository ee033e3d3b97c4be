"""Marks GPT-4's answers to ScienceQA, complemented by a model's: where GPT-4 names no letter, the model's counts.

Prints the accuracy, that of the better of the two answers to each problem (the upper bound), how often GPT-4 named no
letter, and the nine columns of `eval_science_qa`. Answers that are missing count as answers without a letter.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval.science_qa import dataset
from llava.eval.science_qa.columns import columns, share, table
from llava.eval.science_qa.marks import Mark, marks_of

OURS_COUNTS = "the model's answer counts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    dataset.add_arguments(parser)
    parser.add_argument(
        "--gpt4-result", required=True, metavar="FILE", help="GPT-4's answers: a result file with `outputs`"
    )
    parser.add_argument(
        "--our-result", required=True, metavar="FILE", help="the model's answers, from model_vqa_science"
    )


def main(args: argparse.Namespace) -> int:
    ours, gpt4 = marks_of(args, args.our_result, args.gpt4_result)
    pairs = list(zip(ours.marks, gpt4.marks, strict=True))
    combined = [complemented(own, theirs) for own, theirs in pairs]
    total, no_answer = len(pairs), sum(theirs.letter is None for _, theirs in pairs)
    print(share("Correct", sum(one.is_correct for one in combined), total))
    print(share("Correct (upper)", sum(own.is_correct or theirs.is_correct for own, theirs in pairs), total))
    print(share("GPT-4 NO-ANS", no_answer, total, measure="Percentage"))
    print(f"\n{table(columns((one.problem, one.is_correct) for one in combined))}", flush=True)
    ours.report()
    gpt4.report(OURS_COUNTS)
    return 0


def complemented(own: Mark, theirs: Mark) -> Mark:
    """Their answer to a problem, or one's own where theirs names no letter."""
    return theirs if theirs.letter else own


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
