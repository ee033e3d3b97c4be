"""Has a model judge two answers to each question of LLaVA-Bench, whose images it knows by a caption.

    python -m llava.eval.eval_gpt_review_bench --judge-model NAME --question QUESTIONS.jsonl \\
        --context CONTEXT.jsonl --answer-list REFERENCE.jsonl ANSWERS.jsonl --output REVIEWS.jsonl

Any OpenAI-compatible service will do; the key is read from OPENAI_API_KEY. Started again, it asks only for what is
missing. summarize_gpt_review makes figures of the result.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval.reviews.command import add_review_arguments, review


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_review_arguments(parser, context=True)


def main(args: argparse.Namespace) -> int:
    from llava.eval.reviews.prompts import Kind

    return review(args, Kind("caption", prefix="llava_bench_"))


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
