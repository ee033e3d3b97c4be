"""Scores GPT-4's answers to ScienceQA, complemented by a model's answers.

If GPT-4 names no letter, the model's answer counts. The command prints the accuracy, the accuracy of the better of the
two answers to each problem (the upper bound), how often GPT-4 named no letter, and the nine columns of
`eval_science_qa`. Missing answers count as answers without a letter.
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
        "--gpt4-result", required=True, metavar="FILE", help="Answers of GPT-4: a result file with `outputs` (JSON)."
    )
    parser.add_argument(
        "--our-result", required=True, metavar="FILE", help="Answers of the model, from model_vqa_science (JSON Lines)."
    )


def main(args: argparse.Namespace) -> int:
    selection = dataset.ScienceQaSelection.from_args(args)
    ours, gpt4 = marks_of(selection, args.our_result, args.gpt4_result)
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
    """Returns GPT-4's answer to a problem, or the model's own if GPT-4's names no letter."""
    return theirs if theirs.letter else own


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
