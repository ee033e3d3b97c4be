"""Turns the growing ids of an answer into text: each piece once, as soon as it is certain, ending at a stop text.

A tokenizer cannot be asked for one token's text: alone it loses its space, and characters outside the vocabulary are
spelled in bytes. What could still become a stop text, or belongs to an unfinished run of bytes, is held back until the
next token decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

_HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"
# LLaMA spells what its vocabulary lacks in bytes; one more byte may change how the bytes before it decode.
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


class Detokenizer:
    """The text of a growing list of ids, at a cost that does not grow with it.

    Only the ids since the last certain text are decoded, behind the ids of that text, which give the first of them the
    space it has in the whole.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._open: list[int] = []

    def push(self, ids: Sequence[int]) -> str:
        """Takes further ids; returns the text that is certain now, maybe none."""
        self._open += ids
        piece = self._text()
        if piece.endswith(_HALF_CHARACTER) or self._ends_in_byte():
            return ""
        if piece.strip():  # ids without text give what follows no context
            self._context, self._open = self._open, []
            return piece
        return ""

    def flush(self) -> str:
        """What was held back; the answer is at its end."""
        piece, self._open = self._text(), []
        return piece

    def _text(self) -> str:
        known = self._decode(self._context)
        return self._decode(self._context + self._open)[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _ends_in_byte(self) -> bool:
        return bool(self._open) and bool(
            _BYTE_TOKEN.fullmatch(self._tokenizer.convert_ids_to_tokens(self._open[-1]) or "")
        )


class AnswerText:
    """An answer in the making: decoded, cut at the stop text, cleared of leading role names."""

    def __init__(
        self,
        tokenizer: Any,
        stop: Sequence[str] = (),
        prefixes: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
    ):
        """
        Args:
            stop: texts that end the answer and are not part of it; the first to appear counts.
            prefixes: texts to drop, in any order and number, where the answer begins with them.
            on_text: called with each new piece; the pieces together are the answer's text.
        """
        self.text = ""
        """Everything handed on so far; the whole answer after `finish`."""
        self.stopped = False
        """Whether a stop text ended it."""
        self._detokenizer = Detokenizer(tokenizer)
        self._num_ids = 0
        self._raw = ""
        self._stop = tuple(text for text in stop if text)
        self._prefixes = tuple(prefix for prefix in prefixes if prefix)
        self._on_text = on_text
        self._body = ""

    def update(self, ids: Sequence[int]) -> None:
        """Takes all ids generated so far."""
        if self.stopped or len(ids) <= self._num_ids:
            return
        self._take(self._detokenizer.push(ids[self._num_ids :]))
        self._num_ids = len(ids)
        if self.stopped:
            return
        safe = self._body[: len(self._body) - possible_stop(self._body, self._stop)].rstrip()
        if not any(prefix.startswith(safe) for prefix in self._prefixes):
            self._emit(safe)

    def finish(self) -> None:
        """Hands on what was held back."""
        if not self.stopped:
            self._take(self._detokenizer.flush())
        self._emit(self._body.rstrip())
        self.text = self._body.rstrip()

    def _take(self, piece: str) -> None:
        if not piece:
            return
        self._raw += piece
        body = self._raw.lstrip()
        while True:
            prefix = next((prefix for prefix in self._prefixes if body.startswith(prefix)), None)
            if prefix is None:
                break
            body = body[len(prefix) :].lstrip()
        self._body, self.stopped = cut_at_stop(body, self._stop)

    def _emit(self, text: str) -> None:
        if len(text) <= len(self.text) or not text.startswith(self.text):
            return
        piece, self.text = text[len(self.text) :], text
        if self._on_text is not None:
            self._on_text(piece)


class UntilStop:
    """The same for an answer that comes as text: what is before the first stop text, each piece once it is certain."""

    def __init__(self, stop: Sequence[str]):
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Takes a piece; returns what is certain to be part of the answer."""
        if self.stopped:
            return ""
        body, self.stopped = cut_at_stop(self._held + piece, self._stop)
        certain = len(body) if self.stopped else len(body) - possible_stop(body, self._stop)
        self._held = body[certain:]
        return body[:certain]

    def flush(self) -> str:
        """At the end: what was held back, no stop text having come of it."""
        held, self._held = self._held, ""
        return held


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """What is before the first of the stop texts, and whether there was one."""
    ends = [end for end in map(text.find, stop) if end >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def possible_stop(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of the text that a stop text begins with."""
    longest = 0
    for one in stop:
        lengths = range(min(len(one) - 1, len(text)), longest, -1)
        longest = next((n for n in lengths if text.endswith(one[:n])), longest)
    return longest
