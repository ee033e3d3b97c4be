"""Merges a LoRA run into its base, as `llava weights merge-lora` does, under the original's name."""

from __future__ import annotations

import sys

from llava.command_line import run
from llava.model import merge_lora

if __name__ == "__main__":
    sys.exit(run(merge_lora.add_arguments, merge_lora.main, description=merge_lora.__doc__))
