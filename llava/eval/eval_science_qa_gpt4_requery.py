"""Scores the ScienceQA answers that GPT-4, asked a second time, chose from its own and a model's.

If GPT-4 as the judge names no letter, the model's answer counts. The command prints the accuracies of the model, of
GPT-4, of GPT-4 complemented by the model, of the judge, and of the better of the first two answers to each problem (the
upper bound), and then the nine columns of `eval_science_qa` for the judge.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval import eval_science_qa_gpt4
from llava.eval.eval_science_qa import result
from llava.eval.eval_science_qa_gpt4 import OURS_COUNTS, complemented
from llava.eval.science_qa.columns import columns, share, table
from llava.eval.science_qa.dataset import ScienceQaSelection
from llava.eval.science_qa.marks import marks_of
from llava.files.json_files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    eval_science_qa_gpt4.add_arguments(parser)
    parser.add_argument(
        "--requery-result",
        required=True,
        metavar="FILE",
        help="Answers of the judge (JSON Lines), which may be incomplete.",
    )
    parser.add_argument("--output-result", metavar="FILE", help="Output file for accuracy and choices (JSON).")


def main(args: argparse.Namespace) -> int:
    selection = ScienceQaSelection.from_args(args)
    ours, gpt4, requery = marks_of(selection, args.our_result, args.gpt4_result, args.requery_result)
    trios = list(zip(ours.marks, gpt4.marks, requery.marks, strict=True))
    judged = [complemented(own, chosen) for own, _, chosen in trios]
    if args.output_result:
        write_json(args.output_result, {**result(judged), "outputs": {}})
    counts = {
        "Our-Correct": [own.is_correct for own, _, _ in trios],
        "GPT-4-Correct": [theirs.is_correct for _, theirs, _ in trios],
        "GPT-4 NO-ANS": [theirs.letter is None for _, theirs, _ in trios],
        "GPT-4-OursVisual-Correct": [complemented(own, theirs).is_correct for own, theirs, _ in trios],
        "Requery-Correct": [one.is_correct for one in judged],
        "Correct upper": [own.is_correct or theirs.is_correct for own, theirs, _ in trios],
    }
    for label, cases in counts.items():
        measure = "Percentage" if label == "GPT-4 NO-ANS" else "Accuracy"
        print(share(label, sum(cases), len(trios), measure=measure))
    print(f"\n{table(columns((one.problem, one.is_correct) for one in judged))}", flush=True)
    ours.report()
    gpt4.report(OURS_COUNTS)
    requery.report(OURS_COUNTS)
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
