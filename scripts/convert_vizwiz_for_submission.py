"""Runs `python -m llava.eval.convert_vizwiz` under the name of LLaVA's script."""

from __future__ import annotations

import sys

from llava.command_line import run
from llava.eval import convert_vizwiz

if __name__ == "__main__":
    sys.exit(run(convert_vizwiz.add_arguments, convert_vizwiz.main, description=convert_vizwiz.__doc__))
