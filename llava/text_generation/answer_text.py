"""Turns the growing token ids of an answer into pieces of text that end at a stop text.

A tokenizer cannot decode one token by itself: the token loses its leading space, and characters outside the vocabulary
are spelled in bytes. Text that could still become a stop text, or that belongs to an unfinished run of bytes, is held
back until the next token decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from llava.text_generation.answer_events import Piece

_HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"
# LLaMA spells in bytes what its vocabulary lacks; one more byte may change how the bytes before it decode.
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


class Detokenizer:
    """Decodes a growing list of ids at a cost that does not grow with it.

    Decodes only the ids since the last certain text, preceded by the ids of that text, which give the first new id its
    leading space.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._open: list[int] = []

    def push(self, ids: Sequence[int]) -> str:
        """Takes further ids and returns the text that is certain now, which may be empty."""
        self._open += ids
        piece = self._text()
        if piece.endswith(_HALF_CHARACTER) or self._ends_in_byte():
            return ""
        if piece.strip():  # ids without text are no context for the ids after them
            self._context, self._open = self._open, []
            return piece
        return ""

    def flush(self) -> str:
        """Returns the text held back so far. Call it at the end of the answer."""
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


def control_ids(tokenizer: Any, stop: Sequence[str]) -> tuple[int, ...]:
    """Returns the ids of those stop texts that are control tokens, such as `<|im_end|>`; these never appear in the text
    of an answer, because decoding leaves them out."""
    known = tokenizer.get_added_vocab()
    special = set(tokenizer.all_special_ids)
    return tuple(known[text] for text in dict.fromkeys(stop) if known.get(text) in special)


class AnswerText:
    """Builds the text of an answer while it is generated: decodes, cuts at stop texts, drops leading role names."""

    def __init__(
        self,
        tokenizer: Any,
        stop: Sequence[str] = (),
        prefixes: Sequence[str] = (),
        on_piece: Callable[[Piece], None] | None = None,
    ):
        """
        Args:
            stop: texts that end the answer and are not part of it; the first one to appear counts.
            prefixes: texts to drop from the beginning of the answer, in any order and number.
            on_piece: called with each new piece. The texts of the pieces add up to the answer's text, and their counts
                to the number of ids.
        """
        self.text = ""
        """All text passed to `on_piece` so far; the whole answer after `finish`."""
        self.stopped = False
        """True once a stop text has ended the answer."""
        self._detokenizer = Detokenizer(tokenizer)
        self._num_ids = 0
        self._num_counted = 0
        self._raw = ""
        self._stop = tuple(text for text in stop if text)
        self._prefixes = tuple(prefix for prefix in prefixes if prefix)
        self._on_piece = on_piece
        self._body = ""

    def update(self, ids: Sequence[int]) -> None:
        """Takes all ids generated so far."""
        if self.stopped or len(ids) <= self._num_ids:
            return
        new_ids, self._num_ids = ids[self._num_ids :], len(ids)
        self._take(self._detokenizer.push(new_ids))
        if self.stopped:
            return
        certain = self._body[: len(self._body) - possible_stop(self._body, self._stop)].rstrip()
        if not any(prefix.startswith(certain) for prefix in self._prefixes):
            self._emit(certain)

    def finish(self) -> None:
        """Passes on the text and the token count held back so far."""
        if not self.stopped:
            self._take(self._detokenizer.flush())
        self._emit(self._body.rstrip(), is_last=True)

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

    def _emit(self, text: str, *, is_last: bool = False) -> None:
        """Passes on the part of `text` that is new; the last piece may have no text, if tokens are left to count."""
        new_text = text[len(self.text) :]
        num_new_tokens = self._num_ids - self._num_counted
        if not new_text and not (is_last and num_new_tokens):
            return
        self.text, self._num_counted = text, self._num_ids
        if self._on_piece is not None:
            self._on_piece(Piece(new_text, num_new_tokens))


class UntilStop:
    """Cuts an answer that arrives as text at its first stop text, and passes on each piece once it is certain."""

    def __init__(self, stop: Sequence[str]):
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self.stopped = False
        """True once a stop text has ended the answer."""

    def push(self, piece: str) -> str:
        """Takes a piece and returns the text that is certain to be part of the answer."""
        if self.stopped:
            return ""
        body, self.stopped = cut_at_stop(self._held + piece, self._stop)
        certain = len(body) if self.stopped else len(body) - possible_stop(body, self._stop)
        self._held = body[certain:]
        return body[:certain]

    def flush(self) -> str:
        """Returns the text held back so far, which did not become a stop text. Call it at the end of the answer."""
        held, self._held = self._held, ""
        return held


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Returns the text before the first stop text, and whether there was a stop text."""
    ends = [end for end in map(text.find, stop) if end >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def possible_stop(text: str, stop: Sequence[str]) -> int:
    """Returns the length of the longest end of `text` with which a stop text begins."""
    longest = 0
    for one in stop:
        lengths = range(min(len(one) - 1, len(text)), longest, -1)
        longest = next((n for n in lengths if text.endswith(one[:n])), longest)
    return longest
