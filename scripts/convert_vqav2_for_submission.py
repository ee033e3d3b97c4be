"""Runs `python -m llava.eval.convert_vqav2` under the name of LLaVA's script."""

from __future__ import annotations

import sys

from llava.command_line import run
from llava.eval import convert_vqav2

if __name__ == "__main__":
    sys.exit(run(convert_vqav2.add_arguments, convert_vqav2.main, description=convert_vqav2.__doc__))
