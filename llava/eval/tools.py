"""Benchmarks: preparing their data, gathering answers, marking them."""

from __future__ import annotations

import argparse
import sys

from llava.command_line import add_tools, run, run_tool

TOOLS = {
    "convert-science-qa": ("llava.eval.convert_science_qa", "ScienceQA as conversations"),
    "merge-answers": ("llava.eval.merge_answers", "the answers of several processes as one file"),
    "report": ("llava.eval.report.command", "runs side by side in one page, with every answer"),
    "science-qa": ("llava.eval.eval_science_qa", "ScienceQA: accuracy in the nine published columns"),
    "science-qa-gpt4": ("llava.eval.eval_science_qa_gpt4", "ScienceQA: GPT-4, complemented by a model"),
    "science-qa-gpt4-requery": ("llava.eval.eval_science_qa_gpt4_requery", "ScienceQA: GPT-4 as judge of both"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_tools(parser, TOOLS)


def main(args: argparse.Namespace) -> int:
    return run_tool(args, TOOLS)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
