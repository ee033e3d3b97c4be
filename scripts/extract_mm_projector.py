"""Extracts the projector from a checkpoint, as `llava weights extract-projector` does, under the original's name."""

from __future__ import annotations

import sys

from llava.command_line import run
from llava.model import extract_projector

if __name__ == "__main__":
    sys.exit(run(extract_projector.add_arguments, extract_projector.main, description=extract_projector.__doc__))
