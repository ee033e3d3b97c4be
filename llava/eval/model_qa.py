"""Answers questions without images, with a LLaVA or a plain LLaMA model.

Each line of the question file has `question_id` and `text`; the answers file has the form of `model_vqa`.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval.answering import arguments
from llava.eval.answering.command import answer_all
from llava.eval.answering.settings import RunSettings
from llava.eval.data.questions import read_text_only
from llava.eval.data.records import locate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_arguments(parser, questions="JSON Lines with question_id and text", with_images=False)


def main(args: argparse.Namespace) -> int:
    settings = RunSettings.from_args(args)
    answer_all(settings, read_text_only(locate(settings.question_file)))
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
