"""Checks training data."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llava.command_line import Tools, run_group

TOOLS: Tools = {
    "Training data": {
        "check": ("llava.train.check_data", "Check a training file: its records, its images and their lengths."),
    },
}


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Runs the tool that the first word names; returns its exit code."""
    return run_group(TOOLS, description=__doc__, argv=argv, prog=prog)


if __name__ == "__main__":
    sys.exit(main())
