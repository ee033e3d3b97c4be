"""Turns answers into the predictions that GQA's own evaluation and `eval_gqa` read: lower case, no last period."""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval.data.records import locate, read_answers
from llava.eval.scoring.answers import add_conversion, warn_of_duplicates
from llava.files.json_files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_conversion(parser)


def main(args: argparse.Namespace) -> int:
    answers = read_answers(locate(args.src))
    warn_of_duplicates(answers)
    predictions = [
        {"questionId": line.record["question_id"], "prediction": prediction(answers.text(identity, "text"))}
        for identity, line in answers.lines.items()
    ]
    write_json(args.dst, predictions, indent=None)
    print(f"{args.dst}: {len(predictions)} predictions")
    return 0


def prediction(text: str) -> str:
    """An answer in the form of GQA's answers."""
    return text.rstrip(".").lower()


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
