"""Benchmarks: preparing their data, gathering answers, marking them."""

from __future__ import annotations

import argparse
import sys

from llava.command_line import add_tools, run, run_tool

TOOLS = {
    "convert-science-qa": ("llava.eval.convert_science_qa", "ScienceQA as conversations"),
    "gpt-answers": ("llava.eval.qa_baseline_gpt35", "a hosted model's answers to text-only questions"),
    "gpt-review": ("llava.eval.eval_gpt_review", "a judge compares two answers: text-only questions"),
    "gpt-review-bench": ("llava.eval.eval_gpt_review_bench", "a judge compares two answers: LLaVA-Bench"),
    "gpt-review-visual": (
        "llava.eval.eval_gpt_review_visual",
        "a judge compares two answers about a picture",
    ),
    "gpt-review-summary": ("llava.eval.summarize_gpt_review", "figures of reviews, with intervals"),
    "merge-answers": ("llava.eval.merge_answers", "the answers of several processes as one file"),
    "science-qa": ("llava.eval.eval_science_qa", "ScienceQA: accuracy in the nine published columns"),
    "science-qa-gpt4": ("llava.eval.eval_science_qa_gpt4", "ScienceQA: GPT-4, complemented by a model"),
    "science-qa-gpt4-requery": ("llava.eval.eval_science_qa_gpt4_requery", "ScienceQA: GPT-4 as judge of both"),
    "webpage-data": ("llava.eval.generate_webpage_data_from_table", "questions, answers and reviews as one JSON file"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_tools(parser, TOOLS)


def main(args: argparse.Namespace) -> int:
    return run_tool(args, TOOLS)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
