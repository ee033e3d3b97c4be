"""Runs `python -m llava.eval.convert_gqa` under the name of LLaVA's script."""

from __future__ import annotations

import sys

from llava.command_line import run
from llava.eval import convert_gqa

if __name__ == "__main__":
    sys.exit(run(convert_gqa.add_arguments, convert_gqa.main, description=convert_gqa.__doc__))
