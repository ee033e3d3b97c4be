"""Holds one review run: what it asks, which replies count, and what it writes."""

from __future__ import annotations

import sys

from llava.eval.data.records import some
from llava.eval.judge.model import ChatModel, JudgeReply, Messages
from llava.eval.judge.run import JudgeOutcome, Unusable
from llava.eval.reviews.log import Existing, print_existing, read_existing, review_record
from llava.eval.reviews.prompts import ReviewPrompt, ReviewSet
from llava.eval.reviews.scores import NoScores, Scores, parse_scores, schema
from llava.eval.reviews.settings import ReviewSettings
from llava.files.jsonl_log import JsonlLog


class ReviewRun:
    """The settings and the prompts of a run, and what follows from them."""

    def __init__(self, settings: ReviewSettings, reviews: ReviewSet):
        self.settings = settings
        self.judge = settings.judge
        self.output = settings.output
        self.reviews = reviews

    def existing(self) -> Existing:
        """Reads and reports the reviews that the output already contains.

        Raises:
            DataError: the output contains reviews that do not belong to this run, and --replace is not given.
        """
        existing = read_existing(self.output, self.reviews.prompts, self.judge, replace=self.settings.replace)
        print_existing(self.output, existing)
        return existing

    def to_ask(self, existing: Existing) -> list[ReviewPrompt]:
        """Returns the prompts that the settings ask for and the output lacks."""
        wanted = [prompt for prompt in self.reviews.prompts if self.settings.swap or prompt.order == "forward"]
        return existing.to_ask(wanted, redo_unparsable=self.settings.redo_unparsable)

    def model(self) -> ChatModel:
        """Returns the client of the judge."""
        return ChatModel(self.judge, schema(self.settings.low, self.settings.high))

    def messages(self, prompt: ReviewPrompt) -> Messages:
        """Returns what the judge reads."""
        return [{"role": "system", "content": self.reviews.system}, {"role": "user", "content": prompt.text}]

    def accept(self, reply: JudgeReply) -> Scores:
        """Returns the scores of a reply.

        Raises:
            Unusable: the reply has no scores.
        """
        try:
            return parse_scores(reply.text, self.settings.low, self.settings.high)
        except NoScores as error:
            if reply.refusal:
                raise Unusable("the judge refused") from None
            if reply.finish_reason == "length":
                limit = f"the reply was cut off after {self.judge.max_tokens} tokens, see --max-tokens"
                raise Unusable(f"{error}; {limit}") from None
            raise Unusable(str(error)) from None

    def save(self, log: JsonlLog, endpoint: str, outcome: JudgeOutcome[Scores]) -> None:
        """Adds a review, with or without scores, to the output."""
        log.append(review_record(outcome, reviews=self.reviews, settings=self.judge, endpoint=endpoint))

    def print_end(self) -> None:
        """Prints what the output contains at the end of the run."""
        now = read_existing(self.output, self.reviews.prompts, self.judge, replace=False)
        print(f"{self.output}: {len(now.usable)} reviews by {self.judge.judge_model}")
        if now.flagged:
            ids = list(dict.fromkeys(identity for identity, _ in now.flagged))
            print(
                f"note: without scores, so in no figure: {len(now.flagged)} (questions {some(ids)}). "
                "Ask them again with --redo-unparsable.",
                file=sys.stderr,
            )
        print(f"next: python -m llava.eval.summarize_gpt_review -f {self.output}")
