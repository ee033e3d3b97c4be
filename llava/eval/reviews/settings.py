"""Reads the settings of a review from its flags."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llava.errors import InvalidRequest
from llava.eval.data.records import EVAL_FOLDER
from llava.eval.judge.settings import JudgeSettings, add_judge_arguments, judge_settings

DEFAULT_RULE = EVAL_FOLDER / "table" / "rule.json"


def add_review_arguments(parser: argparse.ArgumentParser, *, context: bool) -> None:
    """Adds the flags of `ReviewSettings`.

    Args:
        context: whether the judge reads a context file.
    """
    parser.add_argument(
        "-q",
        "--question",
        required=True,
        metavar="FILE",
        help="Questions (JSON Lines with question_id, text and category).",
    )
    if context:
        parser.add_argument(
            "-c", "--context", required=True, metavar="FILE", help="Descriptions of the images (JSON Lines with image)."
        )
    else:
        parser.set_defaults(context=None)
    parser.add_argument(
        "-a",
        "--answer-list",
        nargs="+",
        required=True,
        metavar="FILE",
        help="Two files of answers (JSON Lines with question_id and text). The first one is the reference.",
    )
    parser.add_argument(
        "-r",
        "--rule",
        default=DEFAULT_RULE,
        metavar="FILE",
        help="Rules for the judge by category of question (JSON; default: llava/eval/table/rule.json).",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="Output file for the reviews (JSON Lines). An existing file is resumed.",
    )
    parser.add_argument(
        "--swap", action="store_true", help="Ask every question a second time with the answers exchanged."
    )
    parser.add_argument("--system", metavar="TEXT", help="System message for the judge (default: a built-in one).")
    parser.add_argument(
        "--scale",
        nargs=2,
        type=float,
        default=(1, 10),
        metavar=("LOW", "HIGH"),
        help="Lowest and highest possible score (default: 1 10).",
    )
    parser.add_argument("--skip-missing", action="store_true", help="Leave out questions that lack an answer.")
    parser.add_argument(
        "--redo-unparsable", action="store_true", help="Ask again about questions whose reviews have no scores."
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="Ask again about questions whose reviews are of other answers, by another rule or by another judge.",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="Print the number of calls and tokens and the cost, and ask nothing."
    )
    parser.add_argument(
        "--batch",
        choices=("submit", "collect"),
        help="Submit the calls to the service's batch queue, or collect the replies of a submitted batch.",
    )
    add_judge_arguments(parser)


@dataclass(frozen=True, slots=True)
class ReviewSettings:
    """What is reviewed, how, and by which judge."""

    judge: JudgeSettings
    question: str
    """Question file."""
    context: str | None
    """File that describes the images; None if the judge is not told about images."""
    answers: tuple[str, str]
    """Answer files of the two sides. The first one is the reference."""
    rule: str
    """Rule file."""
    output: Path
    """File of reviews."""
    swap: bool
    """Whether every question is asked a second time with the answers exchanged."""
    system: str | None
    """System message; None for the built-in one."""
    low: float
    """Lowest possible score."""
    high: float
    """Highest possible score."""
    skip_missing: bool
    """Whether questions that lack an answer are left out."""
    redo_unparsable: bool
    """Whether questions are asked again if their reviews have no scores."""
    replace: bool
    """Whether questions are asked again if their reviews are of other answers, rules or judges."""
    dry_run: bool
    """Whether the cost is printed and nothing is asked."""
    batch: Literal["submit", "collect"] | None
    """Step of the batch queue; None for direct calls."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> ReviewSettings:
        """Reads the flags of `add_review_arguments`.

        Raises:
            InvalidRequest: the number of answer files, the scale or a setting of the judge is invalid.
            DataError: the judge's configuration file is malformed.
        """
        judge = judge_settings(args)
        if len(args.answer_list) != 2:
            raise InvalidRequest(f"--answer-list names {len(args.answer_list)} files, but a review compares two.")
        low, high = args.scale
        if low >= high:
            raise InvalidRequest(f"--scale {low:g} {high:g}: the first number must be below the second.")
        return cls(
            judge=judge,
            question=args.question,
            context=args.context,
            answers=(args.answer_list[0], args.answer_list[1]),
            rule=str(args.rule),
            output=Path(args.output),
            swap=args.swap,
            system=args.system,
            low=low,
            high=high,
            skip_missing=args.skip_missing,
            redo_unparsable=args.redo_unparsable,
            replace=args.replace,
            dry_run=args.dry_run,
            batch=args.batch,
        )
