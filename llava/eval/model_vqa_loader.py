"""Answers questions about images briefly (POPE, MME, VQAv2, GQA, TextVQA): `model_vqa` with 128 new tokens at most.

The name and the flags of later releases' fast evaluator; it and `model_vqa` run on the same engine.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval import model_vqa
from llava.eval.answering import command

main = model_vqa.main


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser, questions=model_vqa.QUESTIONS, max_new_tokens=128)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
