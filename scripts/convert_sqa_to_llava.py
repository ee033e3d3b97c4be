"""Converts ScienceQA into conversations: `python -m llava.eval.convert_science_qa` under the name of LLaVA's script."""

from __future__ import annotations

import sys

from llava.command_line import run
from llava.eval import convert_science_qa

if __name__ == "__main__":
    sys.exit(run(convert_science_qa.add_arguments, convert_science_qa.main, description=convert_science_qa.__doc__))
