"""Turns answers into the file that MM-Vet's grader takes: an object of texts by `v1_` and the id of the question."""

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
    texts = {f"v1_{identity}": answers.text(identity, "text") for identity in answers.lines}
    write_json(args.dst, texts)
    print(f"{args.dst}: {len(texts)} answers")
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
