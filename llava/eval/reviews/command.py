"""Runs a review from its settings to a file of reviews, for all three review commands."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llava.command_line import DONE
from llava.errors import DataError
from llava.eval.reviews.settings import ReviewSettings

if TYPE_CHECKING:
    from llava.eval.judge.run import RunReport
    from llava.eval.reviews.prompts import ReviewKind
    from llava.eval.reviews.run import ReviewRun
    from llava.files.jsonl_log import JsonlLog


def review(settings: ReviewSettings, kind: ReviewKind) -> int:
    """Previews, asks, submits or collects the reviews, and returns the exit code.

    Raises:
        DataError: an input file or the output file is malformed or does not fit.
    """
    from llava.eval.reviews.batch import batch_file, run_batch
    from llava.eval.reviews.prompts import SYSTEM, print_notes, read_review_set
    from llava.eval.reviews.run import ReviewRun
    from llava.files.jsonl_log import JsonlLog

    reviews = read_review_set(
        kind,
        question=settings.question,
        answers=settings.answers,
        rule=settings.rule,
        context=settings.context,
        system=settings.system or SYSTEM,
        skip_missing=settings.skip_missing,
    )
    print_notes(reviews.notes)
    run = ReviewRun(settings, reviews)
    if settings.dry_run and not settings.output.exists():
        return _preview(run)
    with JsonlLog(settings.output) as log:
        if settings.dry_run:
            return _preview(run)
        if settings.batch:
            return run_batch(run, log)
        if batch_file(settings.output).exists:
            raise DataError(
                f"{batch_file(settings.output).path}: a batch of these reviews was submitted. Fetch it with --batch "
                "collect, or remove this file to abandon it."
            )
        return _ask(run, log)


def _preview(run: ReviewRun) -> int:
    from llava.eval.judge.costs import characters, estimate, preview

    existing = run.existing()
    measured = [(characters(run.messages(p)), used) for p, used in existing.measured(run.reviews.prompts)]
    what = estimate(run.judge, map(run.messages, run.to_ask(existing)), measured)
    print(preview(run.judge, len(existing.usable), what))
    return DONE


def _ask(run: ReviewRun, log: JsonlLog) -> int:
    from llava.eval.judge.costs import Spending
    from llava.eval.judge.run import Job, JudgeOutcome, JudgeRun, report_run
    from llava.eval.reviews.log import tidy
    from llava.eval.reviews.scores import Scores

    existing = run.existing()
    jobs = [Job(prompt.name, run.messages(prompt), prompt) for prompt in run.to_ask(existing)]
    spending = Spending(run.judge, existing.usage)

    async def ask() -> RunReport:
        async with run.model() as model:

            def save(outcome: JudgeOutcome[Scores]) -> None:
                run.save(log, model.endpoint, outcome)

            return await JudgeRun(model, spending, run.accept, save).ask_all(jobs)

    if jobs:
        code = report_run(asyncio.run(ask()), len(jobs), run.output, spending)
        if code != DONE:
            return code
    tidy(run.output, existing)
    run.print_end()
    return DONE
