"""Answers questions about images with short answers (POPE, MME, VQAv2, GQA, TextVQA).

This is `model_vqa` with at most 128 new tokens by default, under the name of later releases' fast evaluator.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval import model_vqa
from llava.eval.answering import arguments

main = model_vqa.main


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_arguments(parser, questions=model_vqa.QUESTIONS, max_new_tokens=128)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
