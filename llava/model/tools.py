"""Inspects and converts model folders: deltas, LoRA, projectors, number formats, transformers' format.

Every tool reads and writes block by block, so a model of any size needs a few hundred megabytes of memory.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import add_tools, run, run_tool

TOOLS = {
    "info": ("llava.model.weights_info", "Show what a model folder holds and lacks."),
    "apply-delta": ("llava.model.apply_delta", "Add delta weights to their base."),
    "make-delta": ("llava.model.make_delta", "Make delta weights of a LLaVA and its base."),
    "consolidate": ("llava.model.consolidate", "Rewrite a checkpoint as clean safetensors in one number format."),
    "convert": ("llava.model.convert", "Convert to transformers' format (vLLM, SGLang) and back."),
    "extract-projector": ("llava.model.extract_projector", "Extract the projector of a checkpoint to a file."),
    "merge-lora": ("llava.model.merge_lora", "Merge a LoRA run into its base."),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_tools(parser, TOOLS)


def main(args: argparse.Namespace) -> int:
    return run_tool(args, TOOLS)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
