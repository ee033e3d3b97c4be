"""Converts answers into the predictions that GQA's own evaluation and `eval_gqa` read.

A prediction is the answer in lower case without the final period.
"""

from __future__ import annotations

import sys
from typing import Any

from llava.command_line import run
from llava.eval.data.records import Joined
from llava.eval.scoring.conversion import Conversion


def predictions(answers: Joined) -> list[dict[str, Any]]:
    """Returns the predictions in the order of the answers."""
    return [
        {"questionId": line.record["question_id"], "prediction": prediction(answers.text(identity, "text"))}
        for identity, line in answers.lines.items()
    ]


def prediction(text: str) -> str:
    """Returns an answer in the form of GQA's answers."""
    return text.rstrip(".").lower()


CONVERSION = Conversion("predictions", predictions)
add_arguments, main = CONVERSION.add_arguments, CONVERSION.main

if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
