"""Asks a model to judge two answers to each question of a text-only set.

    python -m llava.eval.eval_gpt_review --judge-model NAME --question QUESTIONS.jsonl \\
        --answer-list REFERENCE.jsonl ANSWERS.jsonl --output REVIEWS.jsonl

Any OpenAI-compatible service will do. The key is read from OPENAI_API_KEY. Repeat an interrupted command to continue
it. summarize_gpt_review computes the figures of the result.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval.reviews.settings import ReviewSettings, add_review_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_review_arguments(parser, context=False)


def main(args: argparse.Namespace) -> int:
    from llava.eval.reviews.command import review
    from llava.eval.reviews.prompts import ReviewKind

    return review(ReviewSettings.from_args(args), ReviewKind("none", has_default=True))


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
