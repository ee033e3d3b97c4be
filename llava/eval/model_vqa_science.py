"""Answers ScienceQA with a LLaVA: explanation and letter in one answer, or in two steps with --answer-prompter.

The question file is what `scripts/convert_sqa_to_llava` writes. `eval_science_qa` marks the answers.

    python -m llava.eval.model_vqa_science --model-name ./LLaVA-13b-v0-science_qa
        --question-file ScienceQA/llava_test.json --image-folder ScienceQA/images/test
        --answers-file vqa/results/ScienceQA/test_llava-13b.jsonl --answer-prompter --conv-mode simple
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.errors import InvalidRequest
from llava.eval.answering import command
from llava.eval.data.questions import read_science_qa
from llava.eval.data.records import locate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(
        parser,
        questions="JSON list with id, conversations and maybe image",
        question_file="tables/question.json",
    )
    parser.add_argument(
        "--answer-prompter",
        action="store_true",
        help="after the explanation, ask for the letter alone (models trained on QCM-LEPA)",
    )
    parser.add_argument(
        "--single-pred-prompt",
        action="store_true",
        help="ask for the letter and nothing else (v1.5 and later, data in CQM-A)",
    )


def main(args: argparse.Namespace) -> int:
    if args.answer_prompter and args.single_pred_prompt:
        raise InvalidRequest("--answer-prompter asks for an explanation, --single-pred-prompt for none: give one.")
    manner = command.manner_of(args, answer_prompter=args.answer_prompter)
    questions = read_science_qa(locate(args.question_file), letter_only=args.single_pred_prompt)
    return command.answer_all(args, questions, manner=manner)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
