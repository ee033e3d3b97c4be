"""Runs `python -m llava.eval.convert_seed_bench` under the name of LLaVA's script."""

from __future__ import annotations

import sys

from llava.command_line import run
from llava.eval import convert_seed_bench

if __name__ == "__main__":
    sys.exit(run(convert_seed_bench.add_arguments, convert_seed_bench.main, description=convert_seed_bench.__doc__))
