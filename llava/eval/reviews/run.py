"""One run of a review command: what it asks, which replies count, and what it writes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llava.eval.data.records import some
from llava.eval.judge.model import ChatModel, JudgeReply, Messages
from llava.eval.judge.run import Outcome, Unusable
from llava.eval.judge.settings import JudgeSettings
from llava.eval.reviews.log import Existing, print_existing, read_existing, review_record
from llava.eval.reviews.prompts import ReviewPrompt, ReviewSet
from llava.eval.reviews.scores import NoScores, Scores, parse_scores, schema
from llava.files.jsonl_log import JsonlLog


class ReviewRun:
    """The flags, the settings and the prompts, and what follows from them."""

    def __init__(self, args: argparse.Namespace, settings: JudgeSettings, reviews: ReviewSet):
        self.args = args
        self.settings = settings
        self.reviews = reviews
        self.output = Path(args.output)
        self.low, self.high = args.scale

    def existing(self) -> Existing:
        """What the output holds, which is said.

        Raises:
            DataError: reviews of something else, without --replace.
        """
        existing = read_existing(self.output, self.reviews.prompts, self.settings, replace=self.args.replace)
        print_existing(self.output, existing)
        return existing

    def to_ask(self, existing: Existing) -> list[ReviewPrompt]:
        """What the flags want and the output lacks."""
        wanted = [prompt for prompt in self.reviews.prompts if self.args.swap or prompt.order == "forward"]
        return existing.to_ask(wanted, redo_unparsable=self.args.redo_unparsable)

    def model(self) -> ChatModel:
        """The judge, not yet asked anything."""
        return ChatModel(self.settings, schema(self.low, self.high))

    def messages(self, prompt: ReviewPrompt) -> Messages:
        """What the judge reads."""
        return [{"role": "system", "content": self.reviews.system}, {"role": "user", "content": prompt.text}]

    def accept(self, reply: JudgeReply) -> Scores:
        """The scores of a reply.

        Raises:
            Unusable: it has none.
        """
        try:
            return parse_scores(reply.text, self.low, self.high)
        except NoScores as error:
            if reply.refusal:
                raise Unusable("the judge refused") from None
            cut = f"; it was cut off after {self.settings.max_tokens} tokens, see --max-tokens"
            raise Unusable(f"{error}{cut if reply.finish_reason == 'length' else ''}") from None

    def save(self, log: JsonlLog, endpoint: str, outcome: Outcome[Scores]) -> None:
        """Adds a review to the output, with or without scores."""
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

    def say_end(self) -> None:
        """What the file holds now."""
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
