"""What asking a model costs: estimated before, counted during, and held below a limit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from llava.eval.judge.model import Messages
from llava.eval.judge.settings import JudgeSettings
from llava.serve.client.openai_client import TokenUsage

CHARACTERS_A_TOKEN: Final = 4.0
"""Of English text, for estimates."""

REPLY_TOKENS: Final = 130
"""Of an average review, for estimates: published ones have 519 characters."""

_TEMPLATE_TOKENS: Final = 16
"""What a service may add to a prompt, for the limit."""

_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of calls that were not made yet."""

    calls: int
    characters: int
    """Of all prompts."""
    tokens_in: int
    tokens_out: int
    most_tokens_out: int
    """Where every reply is as long as it may be."""
    measured: int
    """Replies that the estimate is taken from; 0 for the usual ratio of characters to tokens."""


class Spending:
    """Counts tokens, and keeps what all replies cost below `settings.max_cost`."""

    def __init__(self, settings: JudgeSettings, before: TokenUsage = TokenUsage()):  # noqa: B008 - frozen
        """`before` is what earlier runs have used."""
        self.settings = settings
        self.usage = before
        self._promised = 0.0
        self._calls_under_way = 0

    @property
    def cost(self) -> float:
        """Of all replies so far; 0 without prices."""
        return cost(self.settings, self.usage.prompt_tokens, self.usage.completion_tokens)

    def reserve(self, messages: Messages) -> float | None:
        """Sets aside the most that a call can cost; None where the limit does not allow it now."""
        limit = self.settings.max_cost
        most = cost(self.settings, most_prompt_tokens(messages), self.settings.max_tokens)
        if limit is not None and self.cost + self._promised + most > limit:
            return None
        self._promised += most
        self._calls_under_way += 1
        return most

    def settle(self, reserved: float, usage: TokenUsage | None) -> None:
        """Puts what a call really used in the place of what was set aside."""
        self._promised -= reserved
        self._calls_under_way -= 1
        if usage is not None:
            self.usage += usage

    @property
    def is_waiting(self) -> bool:
        """Whether calls are under way that may turn out cheaper than what was set aside."""
        return self._calls_under_way > 0


def cost(settings: JudgeSettings, tokens_in: float, tokens_out: float) -> float:
    """In the currency of the prices; 0 without prices."""
    return ((settings.price_in or 0.0) * tokens_in + (settings.price_out or 0.0) * tokens_out) / _MILLION


def money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 0.1 else f"{amount:.4f}"


def estimated_usage(messages: Messages, reply: str) -> TokenUsage:
    """For services that do not say."""
    return TokenUsage(math.ceil(characters(messages) / CHARACTERS_A_TOKEN), math.ceil(len(reply) / CHARACTERS_A_TOKEN))


def most_prompt_tokens(messages: Messages) -> int:
    """A bound, not an estimate: a token stands for one byte at least."""
    return sum(len(message["content"].encode()) + _TEMPLATE_TOKENS for message in messages)


def estimate(settings: JudgeSettings, prompts: Iterable[Messages], measured: list[tuple[int, TokenUsage]]) -> Estimate:
    """What calls will use.

    Args:
        measured: the characters of a prompt and what its reply used, for replies that are there already.
    """
    sizes = [characters(messages) for messages in prompts]
    ratio, reply = CHARACTERS_A_TOKEN, float(REPLY_TOKENS)
    if measured:
        ratio = sum(size for size, _ in measured) / max(1, sum(usage.prompt_tokens for _, usage in measured))
        reply = sum(usage.completion_tokens for _, usage in measured) / len(measured)
    return Estimate(
        calls=len(sizes),
        characters=sum(sizes),
        tokens_in=round(sum(sizes) / ratio) if ratio else 0,
        tokens_out=round(len(sizes) * reply),
        most_tokens_out=len(sizes) * settings.max_tokens,
        measured=len(measured),
    )


def preview(settings: JudgeSettings, done: int, what: Estimate) -> str:
    """For a terminal: how many calls, tokens, and the cost where prices are known."""
    source = (
        f"as in the {what.measured} replies that are there"
        if what.measured
        else f"{CHARACTERS_A_TOKEN:g} characters a token"
    )
    a_reply = what.tokens_out / what.calls if what.calls else 0
    lines = [
        f"calls:   {what.calls:,} to make, {done:,} made already",
        f"prompts: {what.characters:,} characters, about {what.tokens_in:,} tokens ({source})",
        f"replies: about {what.tokens_out:,} tokens ({a_reply:.0f} each), at most {what.most_tokens_out:,}",
    ]
    if settings.has_prices:
        about, most = (cost(settings, what.tokens_in, out) for out in (what.tokens_out, what.most_tokens_out))
        lines.append(f"cost:    about {money(about)}, at most about {money(most)} without repeats")
    else:
        lines.append("cost:    unknown; give --price-in and --price-out, of a million tokens")
    return "\n".join(lines)


def characters(messages: Messages) -> int:
    return sum(len(message["content"]) for message in messages)
