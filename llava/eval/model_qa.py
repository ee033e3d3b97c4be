"""Answers questions without images, with a LLaVA or with a plain LLaMA.

The question file has `question_id` and `text` in each line; answers are written as by `model_vqa`.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval.answering import command
from llava.eval.data.questions import read_text_only
from llava.eval.data.records import locate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser, questions="JSON Lines with question_id and text", with_images=False)


def main(args: argparse.Namespace) -> int:
    manner = command.manner_of(args)
    return command.answer_all(args, read_text_only(locate(args.question_file)), manner=manner)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
