"""Answers questions about images with a LLaVA, for every benchmark that has them in a JSON Lines file.

The question file has `question_id`, `image` and `text` in each line, the answers file `question_id`, `prompt`, `text`,
`answer_id`, `model_id` and `metadata` (which model and settings). Stopped and started again, it goes on where it was;
`torchrun --nproc-per-node N -m llava.eval.model_vqa ...` shares the work between N processes and GPUs.

    python -m llava.eval.model_vqa --model-name ./LLaVA-13B-v0 --question-file questions.jsonl
        --image-folder ./images --answers-file ./answers.jsonl --temperature 0
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval.answering import command
from llava.eval.data.questions import read_vqa
from llava.eval.data.records import locate

QUESTIONS = "JSON Lines with question_id, text and maybe image (a name or a list of names)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser, questions=QUESTIONS)


def main(args: argparse.Namespace) -> int:
    manner = command.manner_of(args)
    return command.answer_all(args, read_vqa(locate(args.question_file)), manner=manner)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
