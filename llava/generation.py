"""Generates one answer, streaming: text is handed on as soon as it is certain, and ends at the stop text.

Text is decoded from the growing answer, because decoding token by token loses spaces and splits characters. What could
still become the stop text, or belongs to an unfinished run of byte tokens, is held back until the next token decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llava.errors import ContextTooLong, InvalidRequest

if TYPE_CHECKING:
    import torch

    from llava.prompting import ModelInputs

_HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"
# LLaMA spells what its vocabulary lacks in bytes; one more byte may change how the bytes before it decode.
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Sampling:
    temperature: float = 0.2
    """0 is greedy; at most 2."""
    top_p: float | None = None
    """Keep the most likely tokens that together have this probability."""
    num_beams: int = 1
    """More than 1 searches instead of streaming."""
    max_new_tokens: int = 512
    """Tokens, not characters; prompt and pictures not counted."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise InvalidRequest(f"temperature is {self.temperature}; it must be between 0 and 2.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InvalidRequest(f"top_p is {self.top_p}; it must be above 0 and at most 1.")
        if self.max_new_tokens < 1 or self.num_beams < 1:
            raise InvalidRequest("max_new_tokens and num_beams must be at least 1.")

    def as_generate_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"num_beams": self.num_beams, "do_sample": self.temperature > 0}
        if self.temperature > 0:
            options |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return {name: value for name, value in options.items() if value is not None}


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: Literal["stop", "length"]
    """Whether the model ended by itself, or ran into the limit of tokens."""
    num_prompt_tokens: int
    """Pictures counted by their features."""
    num_new_tokens: int


def answer(
    model: Any,
    tokenizer: Any,
    inputs: ModelInputs,
    sampling: Sampling,
    *,
    stop: str | None = None,
    prefixes: tuple[str, ...] = (),
    context_length: int,
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """Answers one prompt.

    Args:
        stop: text that ends the answer and is not part of it.
        prefixes: texts to drop, in any order and number, where the answer begins with them.
        context_length: tokens of prompt, pictures and answer together; the answer is limited to what is left.
        on_text: called with each new piece of the answer; the pieces together are the answer's text.

    Raises:
        ContextTooLong: prompt and pictures leave no room for an answer; nothing is computed then.
    """
    from transformers import StoppingCriteriaList

    spliced = model.splice_images(inputs.input_ids, None, None, inputs.images, inputs.image_sizes, padding_side="left")
    prompt_tokens = spliced.inputs_embeds.shape[1]
    room = context_length - prompt_tokens
    if room < 1:
        raise ContextTooLong(prompt_tokens, context_length)
    text = AnswerText(tokenizer, stop, prefixes, on_text)
    stream = sampling.num_beams == 1
    generated = model.generate(
        inputs_embeds=spliced.inputs_embeds,
        attention_mask=spliced.attention_mask,
        max_new_tokens=min(sampling.max_new_tokens, room),
        stopping_criteria=StoppingCriteriaList([_StopAtText(text)]) if stream else None,
        **sampling.as_generate_options(),
    )[0].tolist()
    text.update(generated)
    text.finish()
    ended = text.stopped or (bool(generated) and generated[-1] in _end_ids(model))
    return Answer(text.text, "stop" if ended else "length", prompt_tokens, len(generated))


def _end_ids(model: Any) -> tuple[int, ...]:
    end = model.generation_config.eos_token_id
    return tuple(end) if isinstance(end, list) else (end,)


class AnswerText:
    """The text of a growing list of token ids: decoded, cut at the stop text, cleared of leading role names."""

    def __init__(
        self,
        tokenizer: Any,
        stop: str | None,
        prefixes: tuple[str, ...] = (),
        on_text: Callable[[str], None] | None = None,
    ):
        self.text = ""
        """Everything certain so far; the whole answer after `finish`."""
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = stop or None
        self._prefixes = tuple(prefix for prefix in prefixes if prefix)
        self._on_text = on_text
        self._whole = ""

    def update(self, ids: list[int]) -> None:
        """Takes all ids generated so far."""
        if self.stopped or not ids:
            return
        body, self.stopped = self._body(self._tokenizer.decode(ids, skip_special_tokens=True))
        self._whole = body.rstrip()
        if self.stopped or _BYTE_TOKEN.fullmatch(self._tokenizer.convert_ids_to_tokens(ids[-1]) or ""):
            return
        safe = body.rstrip(_HALF_CHARACTER)
        safe = safe[: len(safe) - self._possible_stop(safe)].rstrip()
        if not self._could_be_prefix(safe):
            self._emit(safe)

    def finish(self) -> None:
        """Hands on what was held back."""
        self._emit(self._whole)
        self.text = self._whole

    def _body(self, whole: str) -> tuple[str, bool]:
        """Without leading role names, cut at the stop text; and whether that was there."""
        body = whole.lstrip()
        while True:
            prefix = next((prefix for prefix in self._prefixes if body.startswith(prefix)), None)
            if prefix is None:
                break
            body = body[len(prefix) :].lstrip()
        end = body.find(self._stop) if self._stop else -1
        return (body, False) if end < 0 else (body[:end], True)

    def _possible_stop(self, text: str) -> int:
        """Length of the longest end of `text` that the stop text begins with."""
        stop = self._stop or ""
        return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)

    def _could_be_prefix(self, text: str) -> bool:
        return any(prefix.startswith(text) for prefix in self._prefixes)

    def _emit(self, text: str) -> None:
        if len(text) <= len(self.text) or not text.startswith(self.text):
            return
        piece, self.text = text[len(self.text) :], text
        if self._on_text is not None:
            self._on_text(piece)


class _StopAtText:
    """Feeds the ids of each step to an `AnswerText`; true once it met its stop text."""

    def __init__(self, text: AnswerText):
        self._text = text

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        import torch

        self._text.update(input_ids[0].tolist())
        return torch.full((input_ids.shape[0],), self._text.stopped, dtype=torch.bool, device=input_ids.device)
