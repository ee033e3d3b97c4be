"""Lets text that spells a control token, such as `</s>` or `<im_start>`, be tokenised as the text it is.

A tokenizer turns every spelling of an added token into its id, whoever wrote it. In a question or an answer it is only
text: as an id it would end the answer, or stand for an image. `guarded` separates the first character of such a
spelling from the rest by a character that no text contains, and `is_guard` finds the tokens of that character, to be
dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GUARD = "\ufdd0"
"""A noncharacter of Unicode: it is never assigned, and not meant to be in any text."""


def control_tokens(tokenizer: PreTrainedTokenizerBase, *, without: Iterable[str] = ()) -> re.Pattern[str]:
    """Returns a pattern that matches the spellings of a tokenizer's added tokens.

    Args:
        without: tokens that text may contain, such as a marker that the caller replaces.
    """
    tokens = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens} - set(without)
    # A single character has no inside to break up, and is text like any other.
    spellings = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spellings)) if spellings else r"(?!)")


def guarded(text: str, tokens: re.Pattern[str]) -> str:
    """Returns the text with a `GUARD` inside each spelling of a control token."""
    return tokens.sub(lambda match: f"{match[0][0]}{GUARD}{match[0][1:]}", text.replace(GUARD, ""))


def is_guard(text: str, start: int, end: int) -> bool:
    """Tells whether a token with these offsets in a guarded text belongs to a guard and is to be dropped."""
    return end > start and text[start:end] == GUARD
