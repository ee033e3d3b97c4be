"""Answers questions about images with a LLaVA model, for every benchmark that has them in a JSON Lines file.

Each line of the question file has `question_id`, `image` and `text`; each line of the answers file has `question_id`,
`prompt`, `text`, `answer_id`, `model_id` and `metadata` (model and settings). A run that was interrupted is resumed by
the same command. `torchrun --nproc-per-node N -m llava.eval.model_vqa ...` divides the work among N processes and GPUs.

    python -m llava.eval.model_vqa --model-name ./LLaVA-13B-v0 --question-file questions.jsonl
        --image-folder ./images --answers-file ./answers.jsonl --temperature 0
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval.answering import arguments
from llava.eval.answering.command import answer_all
from llava.eval.answering.settings import RunSettings
from llava.eval.data.questions import read_vqa
from llava.eval.data.records import locate

QUESTIONS = "JSON Lines with question_id, text and optionally image, a name or a list of names"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_arguments(parser, questions=QUESTIONS)


def main(args: argparse.Namespace) -> int:
    settings = RunSettings.from_args(args)
    answer_all(settings, read_vqa(locate(settings.question_file)))
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
