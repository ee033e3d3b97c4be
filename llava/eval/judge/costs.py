"""Estimates the cost of calls before a run, and counts and limits it during the run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from llava.eval.judge.model import Messages
from llava.eval.judge.settings import JudgeSettings
from llava.serve.client.openai_client import TokenUsage

CHARACTERS_PER_TOKEN: Final = 4.0
"""Assumed length of a token of English text, for estimates."""

REPLY_TOKENS: Final = 130
"""Assumed length of a review, for estimates. Published ones have 519 characters on average."""

_TEMPLATE_TOKENS: Final = 16
"""Most tokens that a service may add to a message, for the limit."""

_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """An estimate for calls that are still to be made."""

    calls: int
    characters: int
    """Length of all prompts."""
    tokens_in: int
    """Tokens of all prompts."""
    tokens_out: int
    """Tokens of all replies."""
    most_tokens_out: int
    """Tokens of all replies if every reply has the maximum length."""
    measured: int
    """Replies that the estimate is based on; 0 if it is based on the usual ratio of characters to tokens."""


class Spending:
    """Counts tokens and keeps the cost of all replies below `settings.max_cost`."""

    def __init__(self, settings: JudgeSettings, before: TokenUsage = TokenUsage()):  # noqa: B008 - frozen
        """
        Args:
            before: tokens that earlier runs used.
        """
        self.settings = settings
        self.usage = before
        self._promised = 0.0
        self._calls_in_progress = 0

    @property
    def cost(self) -> float:
        """Cost of all replies so far; 0 without prices."""
        return cost(self.settings, self.usage.prompt_tokens, self.usage.completion_tokens)

    def reserve(self, messages: Messages) -> float | None:
        """Reserves and returns the most that a call can cost; None if the limit does not allow the call now."""
        limit = self.settings.max_cost
        most = cost(self.settings, most_prompt_tokens(messages), self.settings.max_tokens)
        if limit is not None and self.cost + self._promised + most > limit:
            return None
        self._promised += most
        self._calls_in_progress += 1
        return most

    def settle(self, reserved: float, usage: TokenUsage | None) -> None:
        """Replaces the reserved cost of a call by what the call really used."""
        self._promised -= reserved
        self._calls_in_progress -= 1
        if usage is not None:
            self.usage += usage

    @property
    def is_waiting(self) -> bool:
        """Whether calls are in progress that may turn out cheaper than their reserved cost."""
        return self._calls_in_progress > 0


def cost(settings: JudgeSettings, tokens_in: float, tokens_out: float) -> float:
    """Returns the cost in the currency of the prices; 0 without prices."""
    return ((settings.price_in or 0.0) * tokens_in + (settings.price_out or 0.0) * tokens_out) / _MILLION


def money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 0.1 else f"{amount:.4f}"


def estimated_usage(messages: Messages, reply: str) -> TokenUsage:
    """Estimates the tokens of a call for services that do not report them."""
    return TokenUsage(
        math.ceil(characters(messages) / CHARACTERS_PER_TOKEN), math.ceil(len(reply) / CHARACTERS_PER_TOKEN)
    )


def most_prompt_tokens(messages: Messages) -> int:
    """Returns an upper bound for the tokens of a prompt: a token stands for at least one byte."""
    return sum(len(message["content"].encode()) + _TEMPLATE_TOKENS for message in messages)


def estimate(
    settings: JudgeSettings, prompts: Iterable[Messages], measured: list[tuple[int, TokenUsage]]
) -> CostEstimate:
    """Estimates what calls will use.

    Args:
        measured: the number of characters of a prompt and the tokens of its call, for calls that were made already.
    """
    sizes = [characters(messages) for messages in prompts]
    ratio, reply = CHARACTERS_PER_TOKEN, float(REPLY_TOKENS)
    if measured:
        ratio = sum(size for size, _ in measured) / max(1, sum(usage.prompt_tokens for _, usage in measured))
        reply = sum(usage.completion_tokens for _, usage in measured) / len(measured)
    return CostEstimate(
        calls=len(sizes),
        characters=sum(sizes),
        tokens_in=round(sum(sizes) / ratio) if ratio else 0,
        tokens_out=round(len(sizes) * reply),
        most_tokens_out=len(sizes) * settings.max_tokens,
        measured=len(measured),
    )


def preview(settings: JudgeSettings, done: int, what: CostEstimate) -> str:
    """Returns the number of calls and tokens, and the cost if the prices are known, for a terminal."""
    source = (
        f"as in the {what.measured} existing replies"
        if what.measured
        else f"{CHARACTERS_PER_TOKEN:g} characters per token"
    )
    a_reply = what.tokens_out / what.calls if what.calls else 0
    lines = [
        f"calls:   {what.calls:,} to make, {done:,} made already",
        f"prompts: {what.characters:,} characters, about {what.tokens_in:,} tokens ({source})",
        f"replies: about {what.tokens_out:,} tokens ({a_reply:.0f} each), at most {what.most_tokens_out:,}",
    ]
    if settings.has_prices:
        about, most = (cost(settings, what.tokens_in, out) for out in (what.tokens_out, what.most_tokens_out))
        lines.append(f"cost:    about {money(about)}, at most about {money(most)} without retries")
    else:
        lines.append("cost:    unknown; give --price-in and --price-out, the prices per million tokens")
    return "\n".join(lines)


def characters(messages: Messages) -> int:
    return sum(len(message["content"]) for message in messages)
