"""What the three review commands share: from flags to a file of reviews."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from llava.command_line import DONE
from llava.errors import DataError, InvalidRequest
from llava.eval.data.records import EVAL_FOLDER
from llava.eval.judge.settings import add_judge_arguments, judge_settings

if TYPE_CHECKING:
    from llava.eval.judge.run import RunReport
    from llava.eval.reviews.prompts import Kind
    from llava.eval.reviews.run import ReviewRun
    from llava.files.jsonl_log import JsonlLog

DEFAULT_RULE = EVAL_FOLDER / "table" / "rule.json"


def add_review_arguments(parser: argparse.ArgumentParser, *, context: bool) -> None:
    parser.add_argument(
        "-q", "--question", required=True, metavar="FILE", help="questions, JSON Lines: question_id, text, category"
    )
    if context:
        parser.add_argument(
            "-c", "--context", required=True, metavar="FILE", help="what the images show, JSON Lines, joined by image"
        )
    parser.add_argument(
        "-a",
        "--answer-list",
        nargs="+",
        required=True,
        metavar="FILE",
        help="two files of answers, JSON Lines, joined by question_id; the first is the reference",
    )
    parser.add_argument(
        "-r",
        "--rule",
        default=DEFAULT_RULE,
        metavar="FILE",
        help=f"how to judge, by category (default: {DEFAULT_RULE})",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="reviews, JSON Lines; a run goes on from what is there"
    )
    parser.add_argument("--swap", action="store_true", help="ask twice, the second time with the answers exchanged")
    parser.add_argument("--system", metavar="TEXT", help="the system's message (default: one of our own)")
    parser.add_argument(
        "--scale", nargs=2, type=float, default=(1, 10), metavar=("LOW", "HIGH"), help="(default: 1 10)"
    )
    parser.add_argument("--skip-missing", action="store_true", help="leave out questions without two answers")
    parser.add_argument("--redo-unparsable", action="store_true", help="ask those again whose reviews have no scores")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="ask those again whose reviews are of other answers, rules or judges",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say how many calls and tokens it takes")
    parser.add_argument(
        "--batch",
        choices=("submit", "collect"),
        help="leave the calls to the service's batch queue, and fetch the replies once they are there",
    )
    add_judge_arguments(parser)


def review(args: argparse.Namespace, kind: Kind) -> int:
    from llava.eval.reviews.batch import batch_file, run_batch
    from llava.eval.reviews.prompts import SYSTEM, print_notes, read_review_set
    from llava.eval.reviews.run import ReviewRun
    from llava.files.jsonl_log import JsonlLog

    settings = judge_settings(args)
    if len(args.answer_list) != 2:
        raise InvalidRequest(f"--answer-list names {len(args.answer_list)} files; a review compares two.")
    if args.scale[0] >= args.scale[1]:
        raise InvalidRequest(f"--scale {args.scale[0]:g} {args.scale[1]:g}: the first must be below the second.")
    reviews = read_review_set(
        kind,
        question=args.question,
        answers=(args.answer_list[0], args.answer_list[1]),
        rule=str(args.rule),
        context=getattr(args, "context", None),
        system=args.system or SYSTEM,
        skip_missing=args.skip_missing,
    )
    print_notes(reviews.notes)
    run = ReviewRun(args, settings, reviews)
    if args.dry_run and not run.output.exists():
        return _preview(run)
    with JsonlLog(run.output) as log:
        if args.dry_run:
            return _preview(run)
        if args.batch:
            return run_batch(run, log)
        if batch_file(run.output).exists:
            raise DataError(
                f"{batch_file(run.output).path}: a batch of these reviews was submitted. Fetch it with --batch "
                "collect, or remove this file to give it up."
            )
        return _ask(run, log)


def _preview(run: ReviewRun) -> int:
    from llava.eval.judge.costs import characters, estimate, preview

    existing = run.existing()
    measured = [(characters(run.messages(p)), used) for p, used in existing.measured(run.reviews.prompts)]
    what = estimate(run.settings, map(run.messages, run.to_ask(existing)), measured)
    print(preview(run.settings, len(existing.usable), what))
    return DONE


def _ask(run: ReviewRun, log: JsonlLog) -> int:
    from llava.eval.judge.costs import Spending
    from llava.eval.judge.run import Job, Outcome, Run, say_how_it_went
    from llava.eval.reviews.log import tidy
    from llava.eval.reviews.scores import Scores

    existing = run.existing()
    jobs = [Job(prompt.name, run.messages(prompt), prompt) for prompt in run.to_ask(existing)]
    spending = Spending(run.settings, existing.usage)

    async def ask() -> RunReport:
        async with run.model() as model:

            def save(outcome: Outcome[Scores]) -> None:
                run.save(log, model.endpoint, outcome)

            return await Run(model, spending, run.accept, save).ask_all(jobs)

    if jobs:
        code = say_how_it_went(asyncio.run(ask()), len(jobs), run.output, spending)
        if code != DONE:
            return code
    tidy(run.output, existing)
    run.say_end()
    return DONE
