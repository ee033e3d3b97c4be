"""Scores answers to ScienceQA: accuracy with its standard error in the nine columns of the published tables.

NAT, SOC and LAN are natural, social and language science. TXT are problems with a hint, IMG with an image, NO with
neither. G1-6 and G7-12 are school years. An answer that is missing or names no choice is wrong. Such answers, duplicate
answers and answers that belong to no problem are counted and named on standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from llava.command_line import run
from llava.eval.science_qa import dataset
from llava.eval.science_qa.columns import ScienceQaColumn, as_json, columns, share, table
from llava.eval.science_qa.marks import FAILED, Mark, Marks, ScienceQaAnswers, marks_of
from llava.files.json_files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    dataset.add_arguments(parser)
    parser.add_argument(
        "--result-file",
        required=True,
        metavar="FILE",
        help="Answers of model_vqa_science (JSON Lines), or a result file to score again.",
    )
    parser.add_argument(
        "--output-file", metavar="FILE", help="Output file for the correct and the incorrect answers (JSON)."
    )
    parser.add_argument("--output-result", metavar="FILE", help="Output file for accuracy, choices and answers (JSON).")


def main(args: argparse.Namespace) -> int:
    selection = dataset.ScienceQaSelection.from_args(args)
    (marked,) = marks_of(selection, args.result_file)
    scores = columns((one.problem, one.is_correct) for one in marked.marks)
    if args.output_file:
        write_json(args.output_file, analysis(marked, scores, selection.options))
    if args.output_result:
        write_json(args.output_result, result(marked.marks))
    print(headline(scores))
    print(f"\n{table(scores)}", flush=True)
    marked.report()
    return 0


def headline(scores: list[ScienceQaColumn]) -> str:
    """Returns the line that the original prints."""
    by_name = {score.name: score for score in scores}
    everything, images = by_name["Avg"], by_name["IMG"].accuracy
    with_images = "n/a" if images is None else f"{images:.2f}%"
    return f"{share('Correct', everything.num_correct, everything.num_questions)}, IMG-Accuracy: {with_images}"


def analysis(marked: Marks, scores: list[ScienceQaColumn], options: Sequence[str]) -> dict[str, Any]:
    """Returns the correct and incorrect answers as the original lists them, the columns, and the ids of odd answers."""
    listed: dict[str, Any] = {"correct": [], "incorrect": []}
    for one in marked.marks:
        listed["correct" if one.is_correct else "incorrect"].append(_analysis_of(one, marked.answers, options))
    return {**listed, "columns": as_json(scores), **marked.oddities}


def result(marks: list[Mark]) -> dict[str, Any]:
    """Returns accuracy, choices and answers in the original's form."""
    correct = sum(one.is_correct for one in marks)
    return {
        "acc": correct / len(marks) * 100,
        "correct": correct,
        "count": len(marks),
        "results": {one.problem.id: one.choice for one in marks},
        "outputs": {one.problem.id: FAILED if one.text is None else one.text for one in marks},
    }


def _analysis_of(one: Mark, answers: ScienceQaAnswers, options: Sequence[str]) -> dict[str, Any]:
    return {
        "question_id": one.problem.id,
        "parsed_ans": one.letter or FAILED,
        "ground_truth": options[one.problem.answer],
        "question": answers.prompts.get(one.problem.id, "Unknown"),
        "pred": FAILED if one.text is None else one.text,
        "is_multimodal": one.problem.image is not None,
    }


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
