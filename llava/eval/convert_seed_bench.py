"""Scores answers to SEED-Bench and writes the file that its leaderboard accepts (--result-upload-file).

This is `eval_seed_bench` under the name that LLaVA's scripts use; see there for the rule.
"""

from __future__ import annotations

import sys

from llava.command_line import run
from llava.eval.eval_seed_bench import add_arguments, main

__all__ = ["add_arguments", "main"]

if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
