"""Merges a LoRA run into its base, as `python -m llava.model.merge_lora` does, under the name that users know."""

from __future__ import annotations

import sys

from llava.command_line import run
from llava.model import merge_lora

if __name__ == "__main__":
    sys.exit(run(merge_lora.add_arguments, merge_lora.main, description=merge_lora.__doc__))
