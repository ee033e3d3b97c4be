"""What the three review commands share: from flags to a file of reviews."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import DONE, FAILED
from llava.errors import InvalidRequest
from llava.eval.judge_settings import JudgeSettings, add_judge_arguments, judge_settings
from llava.eval.records import EVAL_FOLDER, some

if TYPE_CHECKING:
    from llava.eval.chat_model import ChatModel, Reply
    from llava.eval.judge_batch import BatchFile
    from llava.eval.judge_run import Outcome, RunReport
    from llava.eval.review_log import Existing
    from llava.eval.review_prompts import Kind, ReviewPrompt, ReviewSet
    from llava.eval.review_scores import Scores
    from llava.jsonl_log import JsonlLog

DEFAULT_RULE = EVAL_FOLDER / "table" / "rule.json"


def add_review_arguments(parser: argparse.ArgumentParser, *, context: bool) -> None:
    parser.add_argument(
        "-q", "--question", required=True, metavar="FILE", help="questions, JSON Lines: question_id, text, category"
    )
    if context:
        parser.add_argument(
            "-c", "--context", required=True, metavar="FILE", help="what the pictures show, JSON Lines, joined by image"
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
    from llava.eval.review_prompts import SYSTEM, print_notes, read_review_set

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
    return _Review(args, settings, reviews).run()


class _Review:
    """One run of a review command."""

    def __init__(self, args: argparse.Namespace, settings: JudgeSettings, reviews: ReviewSet):
        self.args = args
        self.settings = settings
        self.reviews = reviews
        self.output = Path(args.output)
        self.low, self.high = args.scale

    def run(self) -> int:
        from llava.jsonl_log import JsonlLog

        if self.args.dry_run and not self.output.exists():
            return self._preview(self._existing())
        with JsonlLog(self.output) as log:
            if self.args.dry_run:
                return self._preview(self._existing())
            if self.args.batch:
                return self._batch(log)
            return self._ask(log)

    def _existing(self) -> Existing:
        from llava.eval.review_log import print_existing, read_existing

        existing = read_existing(self.output, self.reviews.prompts, self.settings, replace=self.args.replace)
        print_existing(self.output, existing)
        return existing

    def _to_ask(self, existing: Existing) -> list[ReviewPrompt]:
        wanted = [prompt for prompt in self.reviews.prompts if self.args.swap or prompt.order == "forward"]
        return existing.to_ask(wanted, redo_unparsable=self.args.redo_unparsable)

    def _preview(self, existing: Existing) -> int:
        from llava.eval.judge_costs import characters, estimate, preview

        asked = self._to_ask(existing)
        measured = [(characters(self._messages(p)), used) for p, used in existing.measured(self.reviews.prompts)]
        what = estimate(self.settings, map(self._messages, asked), measured)
        print(preview(self.settings, len(existing.usable), what))
        return DONE

    def _ask(self, log: JsonlLog) -> int:
        from llava.eval.judge_costs import Spending
        from llava.eval.judge_run import Job, Run, say_how_it_went
        from llava.eval.review_log import tidy

        existing = self._existing()
        jobs = [
            Job(f"question {prompt.identity}{' swapped' * (prompt.order == 'swapped')}", self._messages(prompt), prompt)
            for prompt in self._to_ask(existing)
        ]
        spending = Spending(self.settings, existing.usage)

        async def ask() -> RunReport:
            async with self._model() as model:

                def save(outcome: Outcome[Scores]) -> None:
                    self._save(log, model.endpoint, outcome)

                return await Run(model, spending, self._accept, save).ask_all(jobs)

        if jobs:
            report = asyncio.run(ask())
            code = say_how_it_went(report, len(jobs), self.output, spending)
            if code != DONE:
                return code
        tidy(self.output, existing)
        self._say_end()
        return DONE

    def _model(self) -> ChatModel:
        from llava.eval.chat_model import ChatModel
        from llava.eval.review_scores import schema

        return ChatModel(self.settings, schema(self.low, self.high))

    def _messages(self, prompt: ReviewPrompt) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.reviews.system}, {"role": "user", "content": prompt.text}]

    def _accept(self, reply: Reply) -> Scores:
        from llava.eval.judge_run import Unusable
        from llava.eval.review_scores import NoScores, parse_scores

        try:
            return parse_scores(reply.text, self.low, self.high)
        except NoScores as error:
            if reply.refusal:
                raise Unusable("the judge refused") from None
            cut = f"; it was cut off after {self.settings.max_tokens} tokens, see --max-tokens"
            raise Unusable(f"{error}{cut if reply.finish_reason == 'length' else ''}") from None

    def _save(self, log: JsonlLog, endpoint: str, outcome: Outcome[Scores]) -> None:
        from llava.eval.review_log import review_record

        log.append(
            review_record(
                outcome.job.subject,
                outcome.value,
                outcome.reason,
                outcome.reply,
                reviews=self.reviews,
                settings=self.settings,
                endpoint=endpoint,
                tries=outcome.tries,
                usage=outcome.usage,
            )
        )

    def _batch(self, log: JsonlLog) -> int:
        from llava.eval.judge_batch import BatchFile

        file = BatchFile(self.output.with_name(f"{self.output.name}.batch.json"))
        existing = self._existing()

        async def act() -> int:
            async with self._model() as model:
                if self.args.batch == "submit":
                    return await self._submit(model, file, existing)
                return await self._collect(model, file, existing, log)

        return asyncio.run(act())

    async def _submit(self, model: ChatModel, file: BatchFile, existing: Existing) -> int:
        from llava.eval.judge_batch import Call, submit
        from llava.eval.judge_costs import Spending

        calls = [Call(_custom_id(prompt), self._messages(prompt)) for prompt in self._to_ask(existing)]
        if not calls:
            self._say_end()
            return DONE
        spending = Spending(self.settings, existing.usage)
        if any(spending.reserve(call.messages) is None for call in calls):
            raise InvalidRequest(
                f"{len(calls)} calls could cost more than --max-cost {self.settings.max_cost:g}, if every reply were "
                "as long as --max-tokens. --dry-run tells the likely cost; raise the one or lower the other."
            )
        ids = await submit(model, file, calls)
        print(f"submitted {len(calls)} calls: batch {', '.join(ids)}\nnext: the same command with --batch collect")
        return DONE

    async def _collect(self, model: ChatModel, file: BatchFile, existing: Existing, log: JsonlLog) -> int:
        from llava.eval.judge_batch import collect
        from llava.eval.review_log import tidy

        collected, waiting = await collect(model, file, self.output.parent)
        prompts = {_custom_id(prompt): prompt for prompt in self.reviews.prompts}
        failed: dict[str, str] = {}
        for one in collected:
            prompt = prompts.get(one.custom_id)
            if prompt is None:
                failed[one.custom_id] = f"the files have changed since; its reply is kept in {self.output.parent}"
            elif one.reply is None:
                failed[f"question {prompt.identity}"] = one.reason or "no reply"
            elif prompt.key not in existing.usable:
                self._save(log, model.endpoint, self._batch_outcome(prompt, one.reply))
        file.write(model, waiting)
        if failed:
            reason = next(iter(failed.values()))
            print(
                f"error: no review from {len(failed)} of {len(collected)} calls ({some(failed)}); the first: {reason}. "
                "Submit again, or ask without --batch, for what is missing.",
                file=sys.stderr,
            )
            return FAILED
        if waiting:
            print(f"collected {len(collected)}; {len(waiting)} batches have not ended. Collect again later.")
            return FAILED
        tidy(self.output, existing)
        self._say_end()
        return DONE

    def _batch_outcome(self, prompt: ReviewPrompt, reply: Reply) -> Outcome[Scores]:
        from llava.eval.judge_costs import estimated_usage
        from llava.eval.judge_run import Job, Outcome, Unusable

        job = Job(prompt.identity, self._messages(prompt), prompt)
        usage = reply.usage or estimated_usage(job.messages, reply.text)
        try:
            return Outcome(job, self._accept(reply), None, reply, 1, usage)
        except Unusable as error:
            return Outcome(job, None, str(error), reply, 1, usage)

    def _say_end(self) -> None:
        """What the file holds now."""
        from llava.eval.review_log import read_existing

        now = read_existing(self.output, self.reviews.prompts, self.settings, replace=False)
        print(f"{self.output}: {len(now.usable)} reviews by {self.settings.judge_model}")
        if now.flagged:
            ids = list(dict.fromkeys(identity for identity, _ in now.flagged))
            print(
                f"note: without scores, so in no figure: {len(now.flagged)} (questions {some(ids)}); --redo-unparsable "
                "asks them again",
                file=sys.stderr,
            )
        print(f"next: python -m llava.eval.summarize_gpt_review -f {self.output}")


def _custom_id(prompt: ReviewPrompt) -> str:
    """Of a prompt in a batch: 64 characters at most, and never that of another question, order or prompt."""
    digest = hashlib.sha256(f"{prompt.identity}\n{prompt.sha256}".encode()).hexdigest()[:24]
    readable = re.sub(r"[^\w.-]", "_", prompt.identity, flags=re.ASCII)[:24]
    return f"{readable}-{prompt.order}-{digest}"
