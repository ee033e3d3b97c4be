"""Runs `python -m llava.eval.convert_mm_vet` under the name of LLaVA's script."""

from __future__ import annotations

import sys

from llava.command_line import run
from llava.eval import convert_mm_vet

if __name__ == "__main__":
    sys.exit(run(convert_mm_vet.add_arguments, convert_mm_vet.main, description=convert_mm_vet.__doc__))
