"""Converts answers into the file that MM-Vet's grader reads: a JSON object of answers by `v1_` and the question id."""

from __future__ import annotations

import sys

from llava.command_line import run
from llava.eval.data.records import Joined
from llava.eval.scoring.conversion import Conversion


def texts(answers: Joined) -> dict[str, str]:
    """Returns the answers by the ids that the grader expects."""
    return {f"v1_{identity}": answers.text(identity, "text") for identity in answers.lines}


CONVERSION = Conversion("answers", texts, indent=2)
add_arguments, main = CONVERSION.add_arguments, CONVERSION.main

if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
