"""Answers ScienceQA with a LLaVA model: explanation and letter in one answer, or in two steps with --answer-prompter.

`llava eval convert-science-qa` writes the question file; `llava eval science-qa` scores the answers.

    python -m llava.eval.model_vqa_science --model-name ./LLaVA-13b-v0-science_qa
        --question-file ScienceQA/llava_test.json --image-folder ScienceQA/images/test
        --answers-file vqa/results/ScienceQA/test_llava-13b.jsonl --answer-prompter --conv-mode simple
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.errors import InvalidRequest
from llava.eval.answering import arguments
from llava.eval.answering.command import answer_all
from llava.eval.answering.settings import RunSettings
from llava.eval.data.questions import read_science_qa
from llava.eval.data.records import locate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_arguments(
        parser,
        questions="JSON list with id, conversations and optionally image",
        question_file="tables/question.json",
    )
    parser.add_argument(
        "--answer-prompter",
        action="store_true",
        help="Ask for the letter separately, after the explanation (models trained on QCM-LEPA).",
    )
    parser.add_argument(
        "--single-pred-prompt",
        action="store_true",
        help="Ask only for the letter (v1.5 and later, data in CQM-A).",
    )


def main(args: argparse.Namespace) -> int:
    if args.answer_prompter and args.single_pred_prompt:
        raise InvalidRequest(
            "--answer-prompter and --single-pred-prompt cannot be combined: the latter asks for no explanation."
        )
    settings = RunSettings.from_args(args, answer_prompter=args.answer_prompter)
    answer_all(settings, read_science_qa(locate(settings.question_file), letter_only=args.single_pred_prompt))
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
