"""Runs `python -m llava.eval.convert_mmbench` under the name of LLaVA's script."""

from __future__ import annotations

import sys

from llava.command_line import run
from llava.eval import convert_mmbench

if __name__ == "__main__":
    sys.exit(run(convert_mmbench.add_arguments, convert_mmbench.main, description=convert_mmbench.__doc__))
