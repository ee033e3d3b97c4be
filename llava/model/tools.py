"""Tools for model folders: what is in one, deltas, merging, one precision, transformers' format.

All of them read and write block by block, so a model of any size needs a few hundred megabytes of memory.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import add_tools, run, run_tool

TOOLS = {
    "info": ("llava.model.weights_info", "what a folder holds, and what it lacks"),
    "apply-delta": ("llava.model.apply_delta", "base + delta = a LLaVA"),
    "make-delta": ("llava.model.make_delta", "a LLaVA - its base = what you may share"),
    "consolidate": ("llava.model.consolidate", "any checkpoint as clean safetensors in one precision"),
    "convert": ("llava.model.convert", "to transformers' format (vLLM, SGLang) and back"),
    "merge-lora": ("llava.model.merge_lora", "a LoRA run and its base as one model"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_tools(parser, TOOLS)


def main(args: argparse.Namespace) -> int:
    return run_tool(args, TOOLS)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
